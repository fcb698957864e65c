"""The vendor's matrix product, with everything around it as separate operations: what the kernels compete with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from . import reference
from .weights import LinearWeights

if TYPE_CHECKING:
    from .launch import Norm, Workspace


def library_linear(
    x: torch.Tensor,
    weights: LinearWeights,
    out: torch.Tensor,
    *,
    gate: LinearWeights | None,
    activation: str | None,
    residual: torch.Tensor | None,
    norm: Norm | None,
    x_scale: torch.Tensor | None,
    workspace: Workspace | None,
) -> torch.Tensor:
    """Compute what `launch.linear` does, by PyTorch's operations."""
    if norm is not None:
        x = reference.normalize(x, norm)
    simple = gate is None and activation is None and residual is None and weights.kind == "dense"
    if simple:
        if weights.bias is None:
            return torch.mm(x, weights.weight.t(), out=out)
        return torch.addmm(weights.bias, x, weights.weight.t(), out=out)
    y = _product(x, weights, out.dtype, x_scale, workspace)
    y = reference.activate(y, activation)
    if gate is not None:
        y = y * _product(x, gate, out.dtype, x_scale, workspace)
    if residual is not None:
        return torch.add(y, residual, out=out)
    return out.copy_(y)


def _product(
    x: torch.Tensor,
    weights: LinearWeights,
    dtype: torch.dtype,
    x_scale: torch.Tensor | None,
    workspace: Workspace | None,
) -> torch.Tensor:
    """``x Wᵀ + b`` in the computation's type."""
    if weights.pre_scale is not None:
        x = x * weights.pre_scale
    if weights.kind == "int8_int8":
        scale = weights.input_scale if x_scale is None else x_scale[:, None]
        y = (_integers(x, weights.weight).float() * scale * weights.scale).to(dtype)
    elif weights.kind == "fp8_fp8":
        assert weights.scale is not None  # noqa: S101 - part of the kind
        assert x_scale is not None  # noqa: S101 - likewise
        if x.is_cuda and weights.out_features % 16 == 0 and weights.in_features % 16 == 0:
            scales = {"scale_a": x_scale[:, None], "scale_b": weights.scale[None, :]}
            y = torch._scaled_mm(x, weights.weight.t(), **scales, out_dtype=torch.bfloat16).to(dtype)
        else:
            y = (x.float() @ weights.weight.float().t() * (x_scale[:, None] * weights.scale)).to(dtype)
    elif weights.kind == "fp8":
        assert weights.input_scale is not None  # noqa: S101 - part of the kind
        assert weights.scale is not None  # noqa: S101 - part of the kind
        rounded = reference.to_fp8(x, weights.input_scale)
        if x.is_cuda and weights.out_features % 16 == 0 and weights.in_features % 16 == 0:
            y = torch._scaled_mm(
                rounded, weights.weight.t(), scale_a=weights.input_scale, scale_b=weights.scale, out_dtype=dtype
            )
        else:
            y = (rounded.float() @ weights.weight.float().t() * (weights.input_scale * weights.scale)).to(dtype)
    elif weights.kind == "dense":
        y = x @ weights.weight.t()
    else:
        y = x @ _dense(weights, dtype, workspace).t()
    return y if weights.bias is None else y + weights.bias


def _integers(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """int8 (M, K) × int8 (N, K) → int32 (M, N); the library takes 17 rows or more, and multiples of 8."""
    if not x.is_cuda or weight.shape[0] % 8 or weight.shape[1] % 8:
        return (x.double() @ weight.double().t()).to(torch.int32)
    rows = x.shape[0]
    if rows <= 16:
        x = torch.nn.functional.pad(x, (0, 0, 0, 32 - rows))
    return torch._int_mm(x, weight.t())[:rows]


def _dense(weights: LinearWeights, dtype: torch.dtype, workspace: Workspace | None) -> torch.Tensor:
    shape = (weights.out_features, weights.in_features)
    if workspace is None or not weights.weight.is_cuda or dtype.itemsize != 2:
        return reference.dequantized(weights, dtype)
    from .dequantize import dequantize_into

    workspace.grow_dense(2 * shape[0] * shape[1])
    dense = workspace.dense[: 2 * shape[0] * shape[1]].view(dtype).view(shape)
    return dequantize_into(weights, dense)
