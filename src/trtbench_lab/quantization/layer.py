"""Quantize one linear layer after calibration: weight and statistics of its inputs → tensors of the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..errors import QuantizationError
from ..specs import ModelConfig, QuantAlgo, QuantConfig
from .awq import awq
from .fp8 import LARGEST as FP8_LARGEST
from .fp8 import fp8_inputs_step, fp8_weight
from .gptq import gptq
from .inputs import LayerInputs
from .reference import dense_weight, layer_output
from .report import LayerError
from .smoothquant import LARGEST as INT8_LARGEST
from .smoothquant import activation_step, integer_weight
from .weight_only import WeightOnlyScheme, quantize


def quantized_layer(
    weight: torch.Tensor,
    inputs: LayerInputs,
    quant: QuantConfig,
    dtype: torch.dtype,
    *,
    factors: torch.Tensor | None = None,
    act_order: bool = False,
    clip_from: int = 0,
) -> dict[str, torch.Tensor]:
    """Return the layer's tensors by the last part of their names, as `checkpoint.quantized_layout` lists them.

    Parameters
    ----------
    weight
        (out, in).
    inputs
        Statistics of the layer's inputs before any smoothing.
    quant
        The algorithm and its options.
    dtype
        Type of the checkpoint.
    factors
        SmoothQuant's (in,) factors of this layer's inputs: already taken out of them by the norm before the layer, or
        to be kept as its ``smoother`` by the caller.
    act_order
        GPTQ: round the columns of the largest inputs first.
    clip_from
        AWQ: the first output channel whose range may be shrunk; see `unclipped_channels`.
    """
    algo = quant.quant_algo
    assert algo is not None  # noqa: S101
    if algo.is_smoothquant:
        factors = torch.ones(weight.shape[1], device=weight.device) if factors is None else factors
        found = integer_weight(weight.float() * factors, per_channel=algo.has_channel_scales)
        tensors = {"weight": found.integers, "per_channel_scale": found.steps}
        if not algo.has_token_scales:
            tensors["act_scale"] = activation_step(inputs, factors)
        return tensors
    if algo is QuantAlgo.FP8:
        rounded, step = fp8_weight(weight)
        return {"weight": rounded, "weights_scaling_factor": step, "activation_scaling_factor": fp8_inputs_step(inputs)}
    scheme = WeightOnlyScheme(algo.weight_bits, quant.group_size)
    scheme.check_fits(inputs.name, *weight.shape)
    if algo in (QuantAlgo.W4A16_AWQ, QuantAlgo.W4A8_AWQ):
        searched = awq(weight, inputs, scheme, scale_dtype=dtype, clip_from=clip_from)
        tensors = {"weight": searched.packed, "weights_scaling_factor": searched.scales}
        tensors["prequant_scaling_factor"] = searched.inputs_scale
        if algo is QuantAlgo.W4A8_AWQ:
            tensors["activation_scaling_factor"] = fp8_inputs_step(inputs, searched.inputs_scale)
        return tensors
    if algo is QuantAlgo.W4A16_GPTQ:
        made = gptq(weight, inputs, scheme, scale_dtype=dtype, zero_point=quant.has_zero_point, act_order=act_order)
        tensors = {"weight": made.packed, "weights_scaling_factor": made.scales}
        return tensors if made.zeros is None else {**tensors, "zero": made.zeros}
    if algo.is_weight_only:
        packed, scales = quantize(weight, scheme, scale_dtype=dtype, name=inputs.name)
        return {"weight": packed, scheme.scale_name: scales}
    raise QuantizationError(f"{algo} does not quantize linear layers.", where="quant_algo", remedy="Choose another.")


def unclipped_channels(config: ModelConfig, module: str) -> int:
    """Return how many output channels of a layer are queries and keys, whose ranges AWQ leaves whole."""
    if not module.endswith("attention.qkv"):
        return 0
    return (config.num_attention_heads + config.kv_heads) * config.head_width


def layer_error(
    module: str,
    weight: torch.Tensor,
    tensors: Mapping[str, torch.Tensor],
    inputs: LayerInputs,
    algo: QuantAlgo,
    dtype: torch.dtype,
    *,
    folded: torch.Tensor | None = None,
) -> LayerError:
    """Measure what quantizing a layer did to its outputs on the sample of its inputs.

    Parameters
    ----------
    weight
        (out, in) as it was.
    tensors
        What `quantized_layer` made, and ``smoother`` where there is one.
    inputs
        Statistics of the layer's original inputs.
    algo, dtype
        The algorithm; the checkpoint's type, for the bytes before.
    folded
        SmoothQuant factors that the norm before the layer takes out of its inputs.
    """
    sample = inputs.sample
    given = sample if folded is None else sample / folded
    wanted = sample @ weight.float().t()
    difference = layer_output(given, tensors, algo) - wanted
    # The weight in terms of the original inputs: every scaling of inputs undone.
    undo = tensors.get("prequant_scaling_factor")
    restored = dense_weight(tensors, algo)
    if undo is not None:
        restored = restored * undo.float()
    for factors in (folded, tensors.get("smoother")):
        if factors is not None:
            restored = restored / factors
    change = restored - weight.float()
    size = weight.float().square().sum(dtype=torch.float64)
    step = tensors.get("act_scale", tensors.get("activation_scaling_factor"))
    saturated = 0.0
    if step is not None:
        limit = float(step) * (INT8_LARGEST + 0.5 if algo.is_smoothquant else FP8_LARGEST)
        shown = given * undo.float() if undo is not None else given
        shown = shown / tensors["smoother"] if "smoother" in tensors else shown
        saturated = float((shown.abs() > limit).float().mean())
    return LayerError(
        module=module,
        out_features=weight.shape[0],
        in_features=weight.shape[1],
        relative_rms_error=float((change.square().sum(dtype=torch.float64) / size).sqrt()) if size else 0.0,
        max_abs_error=float(change.abs().max()),
        clipped_share=saturated,
        bytes_before=weight.numel() * dtype.itemsize,
        bytes_after=sum(tensor.nbytes for tensor in tensors.values()),
        output_relative_error=float((difference.square().sum() / wanted.square().sum().clamp_min(1e-30)).sqrt()),
        weight_largest=float(weight.abs().max()),
        inputs_largest=float(inputs.largest.max()),
        outlier_channels=inputs.outlier_channels(),
    )
