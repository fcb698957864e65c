"""Matrix product with INT8 or INT4 weights: ``y = x · dequantize(W)ᵀ``.

Three forms: a function with a plain reference body, a node of an exported network, and the ONNX function (of standard
ops) that the node calls. A backend with a kernel for it replaces the node; one without runs the function's body.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..quantization.weight_only import WeightOnlyScheme, dequantize
from .function_node import PLUGIN_DOMAIN, function_node


def function_name(scheme: WeightOnlyScheme, *, has_zero: bool = False) -> str:
    """Return the op type of the nodes that multiply by weights of `scheme`, in groups possibly with zero points."""
    kind = "Int4" if scheme.bits == 4 else "Int8" if scheme.group_size is None else "Int8Group"
    return f"{kind}{'Zero' if has_zero else ''}MatMul"


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
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    scheme: WeightOnlyScheme,
    *,
    zero: torch.Tensor | None = None,
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
    zero
        Zero points in the shape of `scale`, see `quantization.weight_only.integer_zero_points`; or None.

    Returns
    -------
    (…, out_features), the type of `x`
    """
    if torch.compiler.is_exporting():
        like = x.new_empty((*x.shape[:-1], weight.shape[0]))
        name, attributes = function_name(scheme, has_zero=zero is not None), {}
        if scheme.bits == 4 or zero is not None:
            attributes = {"group_size": block_size(scheme, x.shape[-1])}
        if scheme.bits == 8 and scheme.group_size is not None:
            attributes["in_features"] = x.shape[-1]
        inputs = [x, weight, scale] if zero is None else [x, weight, scale, zero]
        return function_node(f"{PLUGIN_DOMAIN}::{name}", inputs, attributes, like)
    return reference(x, weight, scale, scheme, zero)


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    scheme: WeightOnlyScheme,
    zero: torch.Tensor | None = None,
) -> torch.Tensor:
    """The definition: build the dense weight, then multiply."""
    if scheme.group_size is None and scheme.bits == 8:
        # A scale a channel can be applied to the product instead: half the passes over the weight.
        return F.linear(x, weight.to(x.dtype)) * scale.to(x.dtype)
    return F.linear(x, dequantize(weight, scale, scheme, zeros=zero, dtype=x.dtype))
