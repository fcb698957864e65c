"""Weight-only quantization by definition: symmetric INT8 and INT4, one scale a channel or a group.

For the elements w of one output channel (or of one group of `group_size` neighbours along in_features)::

    scale = max|w| / 2^(bits − 1)
    q     = clip(round(w / scale), −2^(bits − 1), 2^(bits − 1) − 1)        round half to even
    w'    = q · scale

This is TensorRT-LLM's weight-only scale. All 2^bits levels are used, at the price of clipping a positive extreme by one
step: |w' − w| ≤ scale / 2, or ≤ scale where w > (2^(bits − 1) − ½) · scale. A scale is rounded to its stored type
first and the weights are quantized with the rounded one, so that storage adds no error of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..errors import QuantizationError

if TYPE_CHECKING:
    from ..specs import QuantConfig

GROUP_SIZES = (32, 64, 128)
_BITS_BY_ALGO = {"W8A16": 8, "W4A16": 4}


@dataclass(frozen=True)
class WeightOnlyScheme:
    """How a linear layer's weight is stored.

    Attributes
    ----------
    bits
        8 or 4.
    group_size
        Neighbours along in_features that share a scale; None for one scale an output channel.
    """

    bits: int
    group_size: int | None = None

    @property
    def scale_name(self) -> str:
        """Name of the scale beside ``weight``, as TensorRT-LLM has it."""
        return "per_channel_scale" if self.group_size is None else "weights_scaling_factor"

    def packed_shape(self, out_features: int, in_features: int) -> tuple[int, int]:
        """Shape of the stored int8 array; 4-bit pairs share a byte, the even element in the low half."""
        return (out_features, in_features if self.bits == 8 else in_features // 2)

    def scale_shape(self, out_features: int, in_features: int) -> tuple[int, ...]:
        """Shape of the stored scales."""
        if self.group_size is None:
            return (out_features,)
        return (out_features, in_features // self.group_size)

    def check_fits(self, name: str, out_features: int, in_features: int) -> None:
        """Raise `QuantizationError` when a weight of these extents cannot be stored this way."""
        if self.group_size is not None and in_features % self.group_size:
            raise QuantizationError(
                f"{in_features} input features cannot be cut into groups of {self.group_size}.",
                where=name,
                remedy=_group_remedy(in_features),
            )
        if self.bits == 4 and in_features % 2:
            raise QuantizationError(
                f"{in_features} input features cannot be packed two to a byte.",
                where=name,
                remedy="Use 8 bits, or add this module to exclude_modules.",
            )


def scheme_from_config(config: QuantConfig) -> WeightOnlyScheme | None:
    """Return the weight-only scheme of a `QuantConfig`, or None when nothing is quantized.

    Raises
    ------
    QuantizationError
        For an algorithm that is not weight-only, or a group size without kernels.
    """
    if config.quant_algo is None:
        return None
    algo = str(getattr(config.quant_algo, "value", config.quant_algo))
    if algo not in _BITS_BY_ALGO:
        raise QuantizationError(
            f"Quantization {algo!r} cannot be executed by this version.",
            where="quantization.quant_algo",
            remedy=f"Use one of {', '.join(_BITS_BY_ALGO)}, or no quantization.",
        )
    if config.group_size is not None and config.group_size not in GROUP_SIZES:
        raise QuantizationError(
            f"A group size of {config.group_size} is not supported.",
            where="quantization.group_size",
            remedy="Use 32, 64 or 128, or None for one scale an output channel.",
        )
    return WeightOnlyScheme(_BITS_BY_ALGO[algo], config.group_size)


def quantize(
    weight: torch.Tensor, scheme: WeightOnlyScheme, *, scale_dtype: torch.dtype | None = None, name: str = "weight"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize one weight.

    Parameters
    ----------
    weight
        (out_features, in_features), any floating type.
    scheme
        Bits and grouping.
    scale_dtype
        Stored type of the scales; None takes the weight's own.
    name
        Tensor name for errors.

    Returns
    -------
    packed : int8, `scheme.packed_shape`
    scales : `scale_dtype`, `scheme.scale_shape`, all positive

    Raises
    ------
    QuantizationError
        For weights that are not finite or do not fit the scheme.
    """
    out_features, in_features = weight.shape
    scheme.check_fits(name, out_features, in_features)
    scale_dtype = scale_dtype or weight.dtype
    wide = weight.float()
    if not bool(torch.isfinite(wide).all()):
        raise QuantizationError(
            "The weight holds NaN or infinity.", where=name, remedy="The source is damaged: fetch or train it anew."
        )
    grouped = wide.view(out_features, -1, scheme.group_size or in_features)  # (out, groups, group)
    scales = stored_scales(grouped, scheme.bits, scale_dtype)
    integers = levels(grouped, scales, scheme.bits).to(torch.int8).view(out_features, in_features)
    packed = integers if scheme.bits == 8 else pack_int4(integers)
    return packed, scales.to(scale_dtype).reshape(scheme.scale_shape(out_features, in_features))


def stored_scales(grouped: torch.Tensor, bits: int, dtype: torch.dtype) -> torch.Tensor:
    """Return the scale of each group of (…, group) as stored in `dtype`, in float32 (…, 1)."""
    scales = positive(grouped.abs().amax(-1, keepdim=True) / (1 << (bits - 1)))
    return scales.to(dtype).clamp_min(torch.finfo(dtype).smallest_normal).float()


def positive(scales: torch.Tensor) -> torch.Tensor:
    """Return scales with 1 for those of all-zero groups: readers divide by them, and TensorRT refuses a scale of 0."""
    return torch.where(scales > 0, scales, 1.0)


def levels(grouped: torch.Tensor, scales: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the integers of weights (…, group) over their scales (…, 1), still in the type of the weights."""
    half_range = 1 << (bits - 1)
    return (grouped / scales).round_().clamp_(-half_range, half_range - 1)


def dequantize(
    packed: torch.Tensor,
    scales: torch.Tensor,
    scheme: WeightOnlyScheme,
    *,
    zeros: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Return the weight (out_features, in_features) that packed integers and scales stand for.

    `zeros`, of the scales' shape, are GPTQ's; see `integer_zero_points`. `dtype` is the type of the product; None takes
    that of the scales.
    """
    dtype = dtype or scales.dtype
    integers = packed if scheme.bits == 8 else unpack_int4(packed)
    out_features, in_features = integers.shape
    grouped = integers.view(out_features, -1, scheme.group_size or in_features)
    steps = scales.view(out_features, -1, 1)
    if zeros is not None:
        points = integer_zero_points(zeros, scales).view(out_features, -1, 1)
        # The differences of 8 bits and their products with a step are exact in float32 only: one rounding, at the end.
        return ((grouped - points).float() * steps.float()).to(dtype).view(out_features, in_features)
    return (grouped.to(dtype) * steps.to(dtype)).view(out_features, in_features)


def integer_zero_points(zeros: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return the integers z for which ``weight = (q − z) · scale``, int16 in the shape of the scales.

    A checkpoint keeps ``zero = −z · scale`` in the scales' type, as TensorRT-LLM's does. That product is rounded by
    2⁻⁹ of itself at most (bfloat16), and |z| ≤ 129, so dividing and rounding gives z back exactly; one multiplication
    by the difference then gives the very weights of the format that the integers came from.
    """
    return torch.round(-zeros.float() / scales.float()).to(torch.int16)


def pack_int4(integers: torch.Tensor) -> torch.Tensor:
    """Pack int8 values in −8 … 7 two to a byte along the last dimension, the even element in the low half."""
    low, high = integers[..., 0::2], integers[..., 1::2]
    return (low & 0x0F) | (high << 4)


def unpack_int4(packed: torch.Tensor) -> torch.Tensor:
    """Undo `pack_int4`: int8 (…, n) → int8 (…, 2 n)."""
    low = (packed << 4) >> 4  # shifting up and back extends the sign
    return torch.stack((low, packed >> 4), dim=-1).flatten(-2)


def _group_remedy(in_features: int) -> str:
    fitting = [str(size) for size in GROUP_SIZES if in_features % size == 0]
    if fitting:
        return f"Groups of {' or '.join(fitting)} fit; or use one scale a channel, or exclude this module."
    return "Use one scale a channel (group_size None), or add this module to exclude_modules."
