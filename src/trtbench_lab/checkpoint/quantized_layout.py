"""Which tensors a quantized linear layer keeps, algorithm by algorithm, under TensorRT-LLM's names.

=================  ===============================================================================================
W8A16, W4A16       ``weight`` int8 (out, in), or two 4-bit integers a byte (out, in / 2), the even element in the low
                   half; ``per_channel_scale`` (out,), or with groups ``weights_scaling_factor`` (out, in / group)
W4A16_AWQ          as W4A16 with groups, and ``prequant_scaling_factor`` (in,): inputs are multiplied by it first
W4A8_AWQ           the same, and ``activation_scaling_factor`` (1,) float32 of the FP8 inputs
W4A16_GPTQ         as W4A16 with groups, and with zero points ``zero`` (out, in / group): the weight is
                   ``(q − z) · weights_scaling_factor`` and `zero` holds ``−z · weights_scaling_factor``; with
                   `input_order` also ``input_order`` (in,) int32: the input feature of each stored column
W8A16 in groups    as W4A16_GPTQ with one integer a byte
FP8                ``weight`` float8_e4m3fn (out, in), ``weights_scaling_factor`` (1,) and
                   ``activation_scaling_factor`` (1,), float32
FP8_PER_CHANNEL…   ``weight`` float8_e4m3fn (out, in), ``per_channel_scale`` (out,) float32; inputs by token
W8A8_SQ_…          ``weight`` int8 (out, in); ``per_channel_scale`` float32, (out,) or per tensor (1,); static forms
                   ``act_scale`` (1,) float32, the inputs' step; ``smoother`` (in,) float32 where no norm lies before
                   the layer (attention.dense, mlp.proj): inputs are divided by it first
=================  ===============================================================================================

A step is what one unit of the integers is worth. A quantized K/V cache adds ``attention.kv_cache_scaling_factor`` (1,)
float32 to each layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..specs import QuantConfig

KV_SCALE = "attention.kv_cache_scaling_factor"
SMOOTHED_HERE = ("attention.dense", "mlp.proj")
"""Layers without a norm before them: SmoothQuant's scale cannot be folded away."""


class Along(StrEnum):
    """What a tensor of a linear layer is divided with."""

    WEIGHT = "weight"
    OUTPUTS = "outputs"
    INPUTS = "inputs"
    NOTHING = "nothing"


@dataclass(frozen=True)
class LinearTensor:
    """One tensor of a linear layer.

    Attributes
    ----------
    suffix
        Its name after the layer's.
    shape, dtype
        Before any division.
    along
        What it is divided with.
    """

    suffix: str
    shape: tuple[int, ...]
    dtype: str
    along: Along


def linear_tensors(quant: QuantConfig, module: str, shape: tuple[int, int], dtype: str) -> tuple[LinearTensor, ...]:
    """Return the tensors, without the bias, of a linear layer of the given (out_features, in_features).

    Parameters
    ----------
    quant
        The checkpoint's quantization.
    module
        The layer's name, for example ``"transformer.layers.0.mlp.fc"``.
    dtype
        Type of the checkpoint.
    """
    out_features, in_features = shape
    quant = quant.of_module(module)
    algo, group = quant.quant_algo, quant.group_size
    if algo is None:
        return (LinearTensor("weight", shape, dtype, Along.WEIGHT),)
    if algo.value == "FP8":
        return (
            LinearTensor("weight", shape, "float8_e4m3fn", Along.WEIGHT),
            LinearTensor("weights_scaling_factor", (1,), "float32", Along.NOTHING),
            LinearTensor("activation_scaling_factor", (1,), "float32", Along.NOTHING),
        )
    if algo.is_fp8:
        return (
            LinearTensor("weight", shape, "float8_e4m3fn", Along.WEIGHT),
            LinearTensor("per_channel_scale", (out_features,), "float32", Along.OUTPUTS),
        )
    packed = shape if algo.weight_bits == 8 else (out_features, in_features // 2)
    found = [LinearTensor("weight", packed, "int8", Along.WEIGHT)]
    if algo.is_smoothquant:
        if algo.has_channel_scales:
            found.append(LinearTensor("per_channel_scale", (out_features,), "float32", Along.OUTPUTS))
        else:
            found.append(LinearTensor("per_channel_scale", (1,), "float32", Along.NOTHING))
        if not algo.has_token_scales:
            found.append(LinearTensor("act_scale", (1,), "float32", Along.NOTHING))
        if module.endswith(SMOOTHED_HERE):
            found.append(LinearTensor("smoother", (in_features,), "float32", Along.INPUTS))
        return tuple(found)
    if group is None:
        return (*found, LinearTensor("per_channel_scale", (out_features,), dtype, Along.OUTPUTS))
    groups = (out_features, in_features // group)
    found.append(LinearTensor("weights_scaling_factor", groups, dtype, Along.WEIGHT))
    if quant.has_zero_point:
        found.append(LinearTensor("zero", groups, dtype, Along.WEIGHT))
    if quant.input_order:
        found.append(LinearTensor("input_order", (in_features,), "int32", Along.INPUTS))
    if quant.pre_quant_scale:
        found.append(LinearTensor("prequant_scaling_factor", (in_features,), dtype, Along.INPUTS))
    if algo.value == "W4A8_AWQ":
        found.append(LinearTensor("activation_scaling_factor", (1,), "float32", Along.NOTHING))
    return tuple(found)
