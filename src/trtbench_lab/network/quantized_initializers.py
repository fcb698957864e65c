"""The initializers of weight-only layers: packed integers and scales in the shapes that their ONNX functions take."""

from __future__ import annotations

import onnx_ir as ir
import torch

from ..plugins.weight_only_matmul import block_size
from .initializers import Initializer, Weights, onnx_dtype, tensor_of
from .linear import Linear


def quantized_initializers(module: str, linear: Linear, dtype: torch.dtype) -> dict[str, Initializer]:
    """Return the weight and the scale of one linear layer.

    The weight's bytes are the checkpoint's; only its ONNX type and shape differ: INT4 pairs are declared as INT4, and
    INT8 groups as rows of their own, since `DequantizeLinear` by rows is the one form of INT8 that TensorRT takes.

    Parameters
    ----------
    module
        Module name, for example ``"transformer.layers.0.mlp.fc"``.
    linear
        The layer; its extents and scheme are used.
    dtype
        Type of the computation, which the scales take.
    """
    scheme, out_features, in_features = linear.scheme, linear.out_features, linear.in_features
    assert scheme is not None, f"{module} is not quantized"  # noqa: S101
    weight_name, scale_name = f"{module}.weight", f"{module}.{scheme.scale_name}"
    packed_shape = scheme.packed_shape(out_features, in_features)
    stored_scale_shape = scheme.scale_shape(out_features, in_features)
    if linear.plugin is not None:  # the plugin reads the checkpoint's bytes, and its function unpacks them

        def read_stored(weights: Weights) -> torch.Tensor:
            return tensor_of(weights, weight_name, packed_shape)

        def read_plain_scale(weights: Weights) -> torch.Tensor:
            return tensor_of(weights, scale_name, stored_scale_shape).to(dtype)

        return {
            weight_name: Initializer(ir.DataType.INT8, packed_shape, read_stored),
            scale_name: Initializer(onnx_dtype(dtype), stored_scale_shape, read_plain_scale),
        }
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
