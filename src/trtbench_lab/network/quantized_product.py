"""The product of a quantized linear layer, kind by kind: what stands before it, and which form multiplies.

Eagerly this is the arithmetic of `quantization.reference`. In an exported network gathers, factors and divisions of the
inputs are nodes of their own, and the product is one node with a function behind it, or a plugin's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..plugins.frame import Plugin
from ..plugins.matmul.plugins import FP8_MATMUL, INT4_PRODUCTS, INT8_PRODUCTS, ONNX_OF_TORCH, SMOOTH_QUANT_GEMM
from ..plugins.matmul.weights import WORD
from ..plugins.quantized_matmul import fp8_matmul, fp8_rounded, int8_matmul
from ..plugins.quantizing import QUANTIZE_PER_TOKEN, QUANTIZE_TENSOR
from ..plugins.weight_only_matmul import weight_only_matmul
from ..quantization.linear_kinds import LinearForm, LinearKind

Tensors = Mapping[str, Any]
"""A layer's tensors by the last part of their names."""


def plugin_for(kind: LinearKind, in_features: int) -> Plugin | None:
    """Return the plugin that multiplies in a layer of this kind, or None where no kernel takes it.

    4-bit elements are read eight at a time; FP8 inputs with a scale a token have no kernel.
    """
    if kind.form is LinearForm.INT8:
        return SMOOTH_QUANT_GEMM
    if kind.form is LinearForm.FP8:
        return None if kind.algo.has_token_scales else FP8_MATMUL
    if kind.algo.weight_bits == 4 and in_features % WORD:
        return None
    products = INT8_PRODUCTS if kind.algo.weight_bits == 8 else INT4_PRODUCTS
    if kind.quant.group_size is None:
        return products["channel"]
    if kind.quant.has_zero_point:
        return products["zero"]
    # Inputs that are rounded between their scale and the product get the scale on its own.
    return products["pre_scale" if kind.quant.pre_quant_scale and not kind.rounds_inputs_to_fp8 else "group"]


def quantized_product(x: torch.Tensor, kind: LinearKind, tensors: Tensors, plugin: Plugin | None) -> torch.Tensor:
    """Multiply by the weight of a quantized layer; the bias is the caller's.

    Parameters
    ----------
    x
        (…, in), float.
    kind, tensors
        The layer.
    plugin
        What `plugin_for` gave, or None for plain operations.

    Returns
    -------
    (…, out) in the type of x
    """
    if kind.quant.input_order:
        x = x.index_select(-1, tensors["input_order"])
    if kind.smoother:
        x = (x.float() / tensors["smoother"]).to(x.dtype)
    if kind.form is LinearForm.INT8:
        return _int8(x, kind, tensors, plugin)
    weight = tensors["weight"]
    if kind.form is LinearForm.FP8:
        if plugin is not None:
            return plugin(x, weight, tensors["activation_scaling_factor"], tensors["weights_scaling_factor"])
        scale = tensors["per_channel_scale" if kind.algo.has_channel_scales else "weights_scaling_factor"]
        return fp8_matmul(x, weight, scale, tensors.get("activation_scaling_factor"))
    return _dequantized(x, kind, tensors, plugin)


def _int8(x: torch.Tensor, kind: LinearKind, tensors: Tensors, plugin: Plugin | None) -> torch.Tensor:
    weight, weight_scale, step = tensors["weight"], tensors["per_channel_scale"], tensors.get("act_scale")
    if plugin is None:
        return int8_matmul(x, weight, weight_scale, step)
    per_token = step is None
    integers, steps = QUANTIZE_PER_TOKEN(x) if step is None else (QUANTIZE_TENSOR(x, step), step)
    output_type = ONNX_OF_TORCH[str(x.dtype).removeprefix("torch.")]
    return plugin(integers, weight, steps, weight_scale, per_token=int(per_token), output_type=output_type)


def _dequantized(x: torch.Tensor, kind: LinearKind, tensors: Tensors, plugin: Plugin | None) -> torch.Tensor:
    scheme = kind.scheme
    assert scheme is not None, kind  # noqa: S101 - of this form
    weight, scale, zero = tensors["weight"], tensors[scheme.scale_name], tensors.get("zero")
    pre_scale = tensors.get("prequant_scaling_factor")
    fused = plugin is not None and "pre_scale" in plugin.inputs
    if pre_scale is not None and not fused:
        x = x * pre_scale
    if kind.rounds_inputs_to_fp8:
        x = fp8_rounded(x, tensors["activation_scaling_factor"])
    if plugin is None:
        return weight_only_matmul(x, weight, scale, scheme, zero=zero)
    more = [zero] if zero is not None else [pre_scale] if fused else []
    attributes = {} if scheme.group_size is None else {"group_size": scheme.group_size}
    return plugin(x, weight, scale, *more, **attributes)
