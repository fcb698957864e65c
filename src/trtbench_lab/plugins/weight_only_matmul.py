"""Matrix product with INT8 or INT4 weights: ``y = x · dequantize(W)ᵀ``.

Three forms: a function with a plain reference body, a node of an exported network, and the ONNX function (of standard
ops) that the node calls. A backend with a kernel for it replaces the node; one without runs the function's body.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..quantization.weight_only import WeightOnlyScheme, dequantize
from .function_node import PLUGIN_DOMAIN, function_node


def function_name(scheme: WeightOnlyScheme) -> str:
    """Return the op type of the nodes that multiply by weights of `scheme`."""
    if scheme.bits == 4:
        return "Int4MatMul"
    return "Int8MatMul" if scheme.group_size is None else "Int8GroupMatMul"


def block_size(scheme: WeightOnlyScheme, in_features: int) -> int:
    """Return how many elements share a scale in an exported network.

    A scale a channel is written as equal scales of blocks where 4-bit weights are concerned, since TensorRT takes
    those in blocks of 64 or 128 only; the whole row is one block where neither divides it.
    """
    if scheme.group_size is not None:
        return scheme.group_size
    if scheme.bits == 4:
        return next((size for size in (128, 64) if in_features % size == 0), in_features)
    return in_features


def weight_only_matmul(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, scheme: WeightOnlyScheme
) -> torch.Tensor:
    """Multiply by a quantized weight.

    Parameters
    ----------
    x
        (…, in_features), float.
    weight
        Packed int8, see `WeightOnlyScheme.packed_shape`.
    scale
        See `WeightOnlyScheme.scale_shape`.
    scheme
        Bits and grouping.

    Returns
    -------
    (…, out_features), the type of `x`
    """
    if torch.compiler.is_exporting():
        like = x.new_empty((*x.shape[:-1], weight.shape[0]))
        name, attributes = function_name(scheme), {}
        if name == "Int4MatMul":
            attributes = {"group_size": block_size(scheme, x.shape[-1])}
        elif name == "Int8GroupMatMul":
            attributes = {"in_features": x.shape[-1]}
        return function_node(f"{PLUGIN_DOMAIN}::{name}", [x, weight, scale], attributes, like)
    return reference(x, weight, scale, scheme)


def reference(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, scheme: WeightOnlyScheme) -> torch.Tensor:
    """The definition: build the dense weight, then multiply."""
    if scheme.group_size is None and scheme.bits == 8:
        # A scale a channel can be applied to the product instead: half the passes over the weight.
        return F.linear(x, weight.to(x.dtype)) * scale.to(x.dtype)
    return F.linear(x, dequantize(weight, scale, scheme, dtype=x.dtype))
