"""The fused operations of a step: each a launch of one of this engine's kernels, or the same in library calls.

Where Triton cannot run (a CPU without its interpreter) every operation takes its library form, which is also what tests
compare the kernels with.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F

from ....quantization.weight_only import WeightOnlyScheme, dequantize
from .choices import LIBRARY, MATVEC, Choice
from .lowered import LinearWeights, NormWeights

_ACTIVATIONS = {
    None: lambda x: x,
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "squared_relu": lambda x: F.relu(x).square(),
}


_interpreting = False


@contextmanager
def interpreted() -> Iterator[None]:
    """Run kernels on the CPU too, in Triton's interpreter, while the body lasts; for tests of tiny shapes."""
    global _interpreting
    _interpreting = True
    try:
        yield
    finally:
        _interpreting = False


def kernels_run_on(device_type: str) -> bool:
    """Whether Triton kernels run on this kind of device: a GPU, or the CPU under Triton's interpreter."""
    return _interpreting if device_type == "cpu" else device_type == "cuda" and _has_triton()


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def launch(kernel: Any, grid: tuple[int, ...], tensors: tuple[Any, ...], **constants: Any) -> None:
    """Launch a kernel on the device of the first tensor; `constants` hold launch options too."""
    if tensors[0].device.type == "cuda":
        kernel[grid](*tensors, **constants)
        return
    from ....plugins.frame.interpreter import interpret

    interpret(kernel, grid, tensors, constants)


@functools.cache
def _kernels(module: str) -> Any:
    return importlib.import_module(f".kernels.{module}", __package__)


@functools.cache
def _dependent_launch(device: torch.device) -> bool:
    return bool(_kernels("common").uses_dependent_launch(device))


def launch_options(device: torch.device) -> dict[str, Any]:
    """Keywords for a kernel that waits for its input by itself."""
    return {"PDL": True, "launch_pdl": True} if _dependent_launch(device) else {"PDL": False}


def power_of_two(size: int) -> int:
    """The smallest power of two that is at least `size`."""
    return 1 << max(0, size - 1).bit_length()


def linear(
    x: torch.Tensor,
    weights: LinearWeights,
    choice: Choice,
    *,
    norm: NormWeights | None = None,
    act: str | None = None,
    residual: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Return ``residual + act(norm(x) Wᵀ + b)``, gated: ``act(x W₁ᵀ + b₁) · (x W₂ᵀ + b₂)``.

    Parameters
    ----------
    x
        (N, in).
    weights
        The layer.
    choice
        How to compute it.
    norm, act, residual
        Left out where None; residual (N, out) may be changed in place and returned.
    out_dtype
        Type of the result; None: that of x.
    """
    if choice.kernel != LIBRARY and kernels_run_on(x.device.type):
        return _fused(x, weights, choice, norm, act, residual, out_dtype)
    if norm is not None:
        x = add_norm(x, None, norm)
    if weights.bits == 16 and not act and not weights.gated and residual is not None and weights.bias is None:
        return residual.addmm_(x, weights.weight.t())  # the sum is part of the product, rounded once
    y = _product(x, weights)
    if act is not None or weights.gated:
        y = activate(y, act, weights.gated)
    if residual is not None:
        y = residual.add_(y)
    return y if out_dtype is None else y.to(out_dtype)


def _product(x: torch.Tensor, weights: LinearWeights) -> torch.Tensor:
    """x Wᵀ + b by the library, with the dense weight made first where it is quantized."""
    if weights.bits == 16:
        return F.linear(x, weights.weight, weights.bias)
    scale = weights.scale
    assert scale is not None, "quantized weights carry a scale"  # noqa: S101
    if weights.group_size is None and weights.bits == 8:
        y = F.linear(x, weights.weight.to(x.dtype)) * scale.to(x.dtype)
    else:
        scheme = WeightOnlyScheme(weights.bits, weights.group_size)
        y = F.linear(x, dequantize(weights.weight, scale, scheme, dtype=x.dtype))
    return y if weights.bias is None else y + weights.bias


def _fused(
    x: torch.Tensor,
    weights: LinearWeights,
    choice: Choice,
    norm: NormWeights | None,
    act: str | None,
    residual: torch.Tensor | None,
    out_dtype: torch.dtype | None,
) -> torch.Tensor:
    common = _kernels("common")
    tokens, n, k = x.shape[0], weights.out_features, weights.in_features
    y = residual if residual is not None else x.new_empty((tokens, n), dtype=out_dtype or x.dtype)
    quant = common.QUANT_NONE
    if weights.bits == 4:
        quant = common.QUANT_INT4
    elif weights.bits == 8:
        quant = common.QUANT_INT8 if weights.weight.dtype == torch.int8 else common.QUANT_FP8
    scale = x if weights.scale is None else weights.scale
    if scale.ndim == 0:
        scale = scale.expand(n * (2 if weights.gated else 1)).contiguous()
    kind = common.NORM_NONE if norm is None else common.NORM_LAYER if norm.kind == "layernorm" else common.NORM_RMS
    tensors = (
        x,
        weights.weight,
        scale,
        x if weights.bias is None else weights.bias,
        x if norm is None else norm.weight,
        x if norm is None or norm.bias is None else norm.bias,
        y if residual is None else residual,
        y,
        0.0 if norm is None else norm.epsilon,
    )
    shared = dict(
        K=k,
        K_PADDED=power_of_two(k),
        BLOCK_N=choice.block_n,
        BLOCK_K=choice.block_k,
        NORM=kind,
        ACT=common.ACTIVATIONS[act],
        GATED=weights.gated,
        QUANT=quant,
        GROUP=weights.group_size or 0,
        HAS_BIAS=weights.bias is not None,
        HAS_RESIDUAL=residual is not None,
        num_warps=choice.warps,
        **launch_options(x.device),
    )
    grid = (-(-n // choice.block_n),)
    whole_rows = n % choice.block_n == 0
    if choice.kernel == MATVEC:
        width = k // 2 if weights.bits == 4 else k
        even = whole_rows and width % choice.block_k == 0
        launch(_kernels("matvec").matvec_kernel, grid, (*tensors, n), M=tokens, EVEN=even, **shared)
    else:
        launch(
            _kernels("skinny").skinny_kernel,
            grid,
            (*tensors, tokens, n),
            BLOCK_M=max(16, power_of_two(tokens)),
            STAGES=choice.stages,
            num_stages=choice.stages,
            EVEN=whole_rows and k % choice.block_k == 0,
            PRECISION="ieee",
            **shared,
        )
    return y


def add_norm(x: torch.Tensor, added: torch.Tensor | None, norm: NormWeights) -> torch.Tensor:
    """Add `added` (N, width) to x in place, and return the norm of the sum."""
    if not kernels_run_on(x.device.type):
        if added is not None:
            x.add_(added)
        if norm.kind == "layernorm":
            return F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.epsilon)
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.epsilon)
        return norm.weight * wide.to(x.dtype)
    common = _kernels("common")
    out = torch.empty_like(x)
    width = x.shape[1]
    padded = power_of_two(width)
    launch(
        _kernels("rows").add_norm_kernel,
        (x.shape[0],),
        (
            x,
            x if added is None else added,
            norm.weight,
            norm.weight if norm.bias is None else norm.bias,
            out,
            norm.epsilon,
        ),
        WIDTH=width,
        WIDTH_PADDED=padded,
        NORM=common.NORM_LAYER if norm.kind == "layernorm" else common.NORM_RMS,
        HAS_ADDED=added is not None,
        num_warps=min(8, max(1, padded // 512)),
        **launch_options(x.device),
    )
    return out


def activate(x: torch.Tensor, act: str | None, gated: bool) -> torch.Tensor:
    """Return act(x), or act(first half) · (second half) of the columns."""
    width = x.shape[1] // 2 if gated else x.shape[1]
    if not kernels_run_on(x.device.type):
        if not gated:
            return _ACTIVATIONS[act](x)
        return _ACTIVATIONS[act](x[:, :width]) * x[:, width:]
    out = x.new_empty((x.shape[0], width))
    numel, block = out.numel(), 2048
    launch(
        _kernels("rows").activate_kernel,
        (-(-numel // block),),
        (x, out, numel),
        WIDTH=width,
        ACT=_kernels("common").ACTIVATIONS[act],
        GATED=gated,
        BLOCK=block,
        num_warps=8,
        **launch_options(x.device),
    )
    return out


def embed(
    ids: torch.Tensor, positions: torch.Tensor, table: torch.Tensor, position_table: torch.Tensor | None
) -> torch.Tensor:
    """Return the embedded tokens (N, hidden); ids and positions (N,) int32, position −1 of padding counts as 0."""
    if not kernels_run_on(ids.device.type):
        x = F.embedding(ids, table)
        return x if position_table is None else x + F.embedding(positions.clamp_min(0), position_table)
    width = table.shape[1]
    out = table.new_empty((ids.shape[0], width))
    padded = power_of_two(width)
    launch(
        _kernels("rows").embed_kernel,
        (ids.shape[0],),
        (ids, positions, table, table if position_table is None else position_table, out),
        WIDTH=width,
        WIDTH_PADDED=padded,
        LEARNED=position_table is not None,
        num_warps=min(8, max(1, padded // 512)),
        **launch_options(ids.device),
    )
    return out
