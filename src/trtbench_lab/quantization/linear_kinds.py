"""Which kinds of quantized linear layers there are: what the network, the exporters and the backends ask of a layer.

The tensors of each kind are listed in `checkpoint.quantized_layout`; what they compute is defined in `reference`. A
kind belongs to one layer, since a recipe may differ from layer to layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from ..checkpoint.quantized_layout import SMOOTHED_HERE, LinearTensor, linear_tensors
from ..errors import QuantizationError
from ..specs import ModelConfig, QuantAlgo, QuantConfig
from ..specs.quant import GROUP_SIZES
from .weight_only import WeightOnlyScheme

COMPUTED = "computed"
"""Stands for the type of the computation, where a tensor takes it."""


class LinearForm(Enum):
    """What a quantized product multiplies.

    CHANNELS, GROUPS
        Inputs by dequantized weights, a scale an output channel or a scale a group.
    INT8, FP8
        8-bit inputs by 8-bit weights.
    """

    CHANNELS = "channels"
    GROUPS = "groups"
    INT8 = "int8"
    FP8 = "fp8"


@dataclass(frozen=True)
class LinearKind:
    """How one linear layer is quantized.

    Attributes
    ----------
    quant
        Its own algorithm and options.
    smoother
        Whether it divides its inputs itself (SmoothQuant without a norm before the layer).
    dtype
        Type of the checkpoint, in which scales with zero points stay: see `weight_only.integer_zero_points`.
    """

    quant: QuantConfig
    smoother: bool = False
    dtype: str = "float32"

    @property
    def algo(self) -> QuantAlgo:
        """The algorithm."""
        assert self.quant.quant_algo is not None, "an unquantized layer has no kind"  # noqa: S101
        return self.quant.quant_algo

    @property
    def form(self) -> LinearForm:
        """What is multiplied."""
        if self.algo.is_smoothquant:
            return LinearForm.INT8
        if self.algo.is_fp8:
            return LinearForm.FP8
        return LinearForm.CHANNELS if self.quant.group_size is None else LinearForm.GROUPS

    @property
    def scheme(self) -> WeightOnlyScheme | None:
        """Integers and groups of a weight that is dequantized before the product; None for INT8 and FP8 products."""
        if self.form in (LinearForm.INT8, LinearForm.FP8):
            return None
        return WeightOnlyScheme(self.algo.weight_bits, self.quant.group_size)

    @property
    def rounds_inputs_to_fp8(self) -> bool:
        """Whether inputs pass through E4M3: FP8 layers and W4A8."""
        return self.algo.rounds_inputs_to_fp8

    def tensors(self, out_features: int, in_features: int) -> tuple[LinearTensor, ...]:
        """Return the layer's tensors, without the bias, at these extents: a rank's own give the rank's shapes.

        Their type is `COMPUTED` where it follows the computation.
        """
        module = SMOOTHED_HERE[0] if self.smoother else "layer"
        quant = self.quant.replace(exclude_modules=())
        found = linear_tensors(quant, module, (out_features, in_features), COMPUTED)
        if not self.quant.has_zero_point:
            return found
        return tuple(replace(one, dtype=self.dtype) if one.dtype == COMPUTED else one for one in found)


def kind_of(config: ModelConfig, module: str) -> LinearKind | None:
    """Return how a linear layer, for example ``"transformer.layers.0.mlp.fc"``, is quantized.

    None is a plain layer.

    Raises
    ------
    QuantizationError
        For an algorithm that is none of linear layers, or a group size that no kernel has.
    """
    quant = config.quantization.of_module(module)
    if quant.quant_algo is None:
        return None
    own = quant.replace(exclude_modules=None, kv_cache_quant_algo=None)
    smoother = quant.quant_algo.is_smoothquant and module.endswith(SMOOTHED_HERE)
    kind = LinearKind(own, smoother, config.dtype)
    if kind.algo in (QuantAlgo.INT8, QuantAlgo.MIXED_PRECISION):
        raise QuantizationError(
            f"{kind.algo.value} is no algorithm of a linear layer.",
            where="quantization.quant_algo",
            remedy="INT8 is a K/V cache's (kv_cache_quant_algo); for linear layers choose W8A16 or SmoothQuant.",
        )
    if own.group_size is not None and own.group_size not in GROUP_SIZES:
        raise QuantizationError(
            f"A group size of {own.group_size} is not supported.",
            where="quantization.group_size",
            remedy="Use 32, 64 or 128, or None for one scale an output channel.",
        )
    return kind


def linear_modules(config: ModelConfig) -> tuple[str, ...]:
    """Return the names of the model's linear layers, the head last where it has a weight of its own."""
    parts = ["attention.qkv", "attention.dense", "mlp.fc", *(["mlp.gate"] if config.gated_mlp else []), "mlp.proj"]
    layers = [f"transformer.layers.{number}.{part}" for number in range(config.num_hidden_layers) for part in parts]
    return (*layers, *([] if config.share_embedding_table else ["lm_head"]))


def kinds_in(config: ModelConfig) -> tuple[LinearKind, ...]:
    """Return the different kinds among the model's layers, in order of their first layer; none of an unquantized model.

    Raises
    ------
    QuantizationError
        See `kind_of`.
    """
    found: list[LinearKind] = []
    for module in linear_modules(config):
        kind = kind_of(config, module)
        if kind is not None and kind not in found:
            found.append(kind)
    return tuple(found)
