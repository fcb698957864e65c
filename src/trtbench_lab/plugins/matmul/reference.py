"""The definitions: what every kernel of this folder computes, in plain PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ...quantization.fp8 import rounded_to_fp8
from ...quantization.weight_only import unpack_int4
from .weights import LinearWeights

if TYPE_CHECKING:
    from .launch import Norm


def linear_reference(
    x: torch.Tensor,
    weights: LinearWeights,
    *,
    gate: LinearWeights | None = None,
    activation: str | None = None,
    residual: torch.Tensor | None = None,
    norm: Norm | None = None,
    x_scale: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Compute what `launch.linear` computes, with sums in float64 and one rounding to `dtype` (None: that of x).

    x (M, K) → (M, N).
    """
    dtype = dtype or x.dtype
    if norm is not None:
        x = normalize(x, norm)
    y = activate(_product(x, weights, x_scale), activation)
    if gate is not None:
        y = y * _product(x, gate, x_scale)
    if residual is not None:
        y = y + residual.double()
    return y.to(dtype)


def _product(x: torch.Tensor, weights: LinearWeights, x_scale: torch.Tensor | None) -> torch.Tensor:
    if weights.pre_scale is not None:
        x = x * weights.pre_scale
    if weights.kind == "int8_int8":
        assert weights.scale is not None  # noqa: S101 - part of the kind
        scale = weights.input_scale if x_scale is None else x_scale[:, None]
        assert scale is not None  # noqa: S101 - one of the two is given
        y = (x.double() @ weights.weight.double().t()) * scale.double() * weights.scale.double()
    elif weights.kind == "fp8_fp8":
        assert weights.scale is not None  # noqa: S101 - part of the kind
        assert x_scale is not None  # noqa: S101 - likewise
        y = (x.double() @ weights.weight.double().t()) * x_scale.double()[:, None] * weights.scale.double()
    elif weights.kind == "fp8":
        assert weights.input_scale is not None  # noqa: S101 - part of the kind
        assert weights.scale is not None  # noqa: S101 - part of the kind
        rounded = to_fp8(x, weights.input_scale).double()
        y = rounded @ weights.weight.double().t() * weights.scale.double() * weights.input_scale.double()
    else:
        y = x.double() @ dequantized(weights, torch.float64).t()
    return y if weights.bias is None else y + weights.bias.double()


def dequantized(weights: LinearWeights, dtype: torch.dtype) -> torch.Tensor:
    """Return the dense weight (N, K) that is stored: ``(q − zero) · scale``."""
    stored = weights.plain()
    if stored.kind == "dense":
        return stored.weight.to(dtype)
    assert stored.scale is not None  # noqa: S101 - part of the kind
    integers = unpack_int4(stored.weight) if stored.kind == "int4" else stored.weight
    rows = stored.out_features
    groups = integers.view(rows, -1, stored.group_size or stored.in_features).to(dtype)
    if stored.zero is not None:
        groups = groups - stored.zero.to(dtype).view(rows, -1, 1)
    return (groups * stored.scale.to(dtype).view(stored.scale.numel() // groups.shape[1], -1, 1)).view(rows, -1)


def to_fp8(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Round ``x / scale`` to float8_e4m3fn; what lies beyond its range takes the largest number."""
    return rounded_to_fp8(x.float() / scale.float())


def normalize(x: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Apply a norm over the last dimension, computed in float32."""
    wide = x.float()
    if norm.kind == "layer":
        bias = None if norm.bias is None else norm.bias.float()
        return F.layer_norm(wide, wide.shape[-1:], norm.weight.float(), bias, norm.epsilon).to(x.dtype)
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.epsilon)
    return norm.weight * wide.to(x.dtype)


def activate(y: torch.Tensor, activation: str | None) -> torch.Tensor:
    """Apply an activation by its name in a model's configuration."""
    if activation is None:
        return y
    if activation in ("gelu_tanh", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"):
        return F.gelu(y, approximate="tanh")
    if activation == "squared_relu":
        return F.relu(y).square()
    return {"gelu": F.gelu, "silu": F.silu, "relu": F.relu}[activation](y)
