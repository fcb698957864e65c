"""The initializers of quantized layers: packed integers, FP8 numbers and scales in the shapes that their nodes take."""

from __future__ import annotations

import onnx_ir as ir
import torch

from ..plugins.weight_only_matmul import block_size
from ..quantization.linear_kinds import COMPUTED
from ..quantization.weight_only import WeightOnlyScheme, integer_zero_points
from .initializers import Initializer, Weights, from_checkpoint, onnx_dtype, tensor_of
from .linear import Linear


def quantized_initializers(module: str, linear: Linear, dtype: torch.dtype) -> dict[str, Initializer]:
    """Return everything one linear layer holds but its bias.

    Bytes of weights are the checkpoint's; only their ONNX type and shape may differ: INT4 pairs are declared as INT4,
    and INT8 groups as rows of their own, since `DequantizeLinear` by rows is the one form of INT8 that TensorRT takes.
    Kernels of plugins read the checkpoint's bytes as they are.

    Parameters
    ----------
    module
        Module name, for example ``"transformer.layers.0.mlp.fc"``.
    linear
        The layer; its extents and kind are used.
    dtype
        Type of the computation, which scales take where they have none of their own.
    """
    kind = linear.kind
    assert kind is not None, f"{module} is not quantized"  # noqa: S101
    found = {}
    for tensor in kind.tensors(linear.out_features, linear.in_features):
        name = f"{module}.{tensor.suffix}"
        stored = dtype if tensor.dtype == COMPUTED else getattr(torch, tensor.dtype)
        found[name] = from_checkpoint(name, tensor.shape, stored)
    scheme = kind.scheme
    if scheme is None:
        return found
    scale_name, zero_name = f"{module}.{scheme.scale_name}", f"{module}.zero"
    scale_shape = found[scale_name].shape
    if zero_name in found:
        found[scale_name] = from_checkpoint(scale_name, scale_shape, dtype)
        found[zero_name] = _zeros(zero_name, scale_name, scale_shape, None if linear.plugin is not None else dtype)
    if linear.plugin is None:
        found |= _in_blocks(module, linear, scheme, dtype)
    return found


def _zeros(zero_name: str, scale_name: str, shape: tuple[int, ...], dtype: torch.dtype | None) -> Initializer:
    """Zero points: the integers z (`dtype` None), or −z · scale in a type."""

    def read(weights: Weights) -> torch.Tensor:
        scale = tensor_of(weights, scale_name, shape)
        zeros = integer_zero_points(tensor_of(weights, zero_name, shape), scale)
        return zeros.to(torch.int8) if dtype is None else (-zeros.float() * scale.float()).to(dtype)

    return Initializer(ir.DataType.INT8 if dtype is None else onnx_dtype(dtype), shape, read)


def _in_blocks(module: str, linear: Linear, scheme: WeightOnlyScheme, dtype: torch.dtype) -> dict[str, Initializer]:
    """Weight and scale as `DequantizeLinear` takes them."""
    out_features, in_features = linear.out_features, linear.in_features
    weight_name, scale_name = f"{module}.weight", f"{module}.{scheme.scale_name}"
    packed_shape = scheme.packed_shape(out_features, in_features)
    stored_scale_shape = scheme.scale_shape(out_features, in_features)
    group = block_size(scheme, in_features)
    groups = in_features // group
    weight_shape: tuple[int, ...]
    scale_shape: tuple[int, ...]
    if scheme.bits == 4:
        weight_type, weight_shape, scale_shape = ir.DataType.INT4, (out_features, in_features), (out_features, groups)
    elif scheme.group_size is None:
        weight_type, weight_shape, scale_shape = ir.DataType.INT8, packed_shape, (out_features,)
    else:
        weight_type = ir.DataType.INT8
        weight_shape, scale_shape = (out_features * groups, group), (out_features * groups,)

    def read_weight(weights: Weights) -> torch.Tensor:
        return tensor_of(weights, weight_name, packed_shape)

    def read_scale(weights: Weights) -> torch.Tensor:
        scale = tensor_of(weights, scale_name, stored_scale_shape).to(dtype)
        if scheme.group_size is None and len(scale_shape) == 2:  # a scale a channel, repeated for each block
            scale = scale[:, None].expand(scale_shape)
        return scale.reshape(scale_shape)

    return {
        weight_name: Initializer(weight_type, weight_shape, read_weight),
        scale_name: Initializer(onnx_dtype(dtype), scale_shape, read_scale),
    }
