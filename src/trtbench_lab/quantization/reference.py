"""What a quantized linear layer computes, by definition, from the tensors its checkpoint keeps; for every algorithm."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..errors import QuantizationError
from ..specs import QuantAlgo, QuantConfig
from .fp8 import fp8_product, through_fp8
from .smoothquant import integer_product
from .weight_only import WeightOnlyScheme, dequantize


def layer_output(x: torch.Tensor, tensors: Mapping[str, torch.Tensor], algo: QuantAlgo) -> torch.Tensor:
    """Return the output, without the bias, of a quantized linear layer.

    Parameters
    ----------
    x
        (…, in) inputs of any floating type.
    tensors
        The layer's tensors by the last part of their names, as `checkpoint.quantized_layout` lists them.
    algo
        The algorithm.

    Returns
    -------
    (…, out) in the type of x
    """
    if "input_order" in tensors:
        x = x[..., tensors["input_order"].long()]
    if algo.is_smoothquant:
        if "smoother" in tensors:
            x = (x.float() / tensors["smoother"]).to(x.dtype)
        return integer_product(x, tensors["weight"], tensors["per_channel_scale"], tensors.get("act_scale"))
    if algo is QuantAlgo.FP8:
        return fp8_product(
            x, tensors["weight"], tensors["weights_scaling_factor"], tensors["activation_scaling_factor"]
        )
    if algo is QuantAlgo.FP8_PER_CHANNEL_PER_TOKEN:
        return fp8_product(x, tensors["weight"], tensors["per_channel_scale"])
    if "prequant_scaling_factor" in tensors:
        x = x * tensors["prequant_scaling_factor"].to(x.dtype)
    if algo is QuantAlgo.W4A8_AWQ:
        x = through_fp8(x, tensors["activation_scaling_factor"])
    return x @ dense_weight(tensors, algo).to(x.dtype).t()


def dense_weight(tensors: Mapping[str, torch.Tensor], algo: QuantAlgo) -> torch.Tensor:
    """Return the weight (out, in) float32 that the stored tensors stand for, before any scaling of inputs is undone.

    Columns lie as they are stored (see ``input_order``).
    """
    packed = tensors["weight"]
    if algo is QuantAlgo.FP8:
        return packed.float() * tensors["weights_scaling_factor"]
    if algo.is_smoothquant or algo.is_fp8:
        return packed.float() * tensors["per_channel_scale"][:, None]
    scales = tensors.get("weights_scaling_factor", tensors.get("per_channel_scale"))
    if scales is None:
        raise QuantizationError("The layer has no scales.", where=str(algo), remedy="Quantize the model again.")
    in_features = packed.shape[1] * (1 if algo.weight_bits == 8 else 2)
    group = None if scales.ndim == 1 else in_features // scales.shape[1]
    scheme = WeightOnlyScheme(algo.weight_bits, group)
    return dequantize(packed, scales, scheme, zeros=tensors.get("zero"), dtype=torch.float32)


def needs_calibration(config: QuantConfig) -> bool:
    """Whether the checkpoint depends on what layers see, and not on the weights alone."""
    if config.quantized_layers is not None:
        layers = [config.of_module(module) for module in config.quantized_layers]
        return config.kv_cache_quant_algo is not None or any(needs_calibration(layer) for layer in layers)
    algo = config.quant_algo
    return config.kv_cache_quant_algo is not None or (algo is not None and not algo.is_weight_only)
