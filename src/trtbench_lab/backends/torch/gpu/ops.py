"""The operations of a step around its attention: products with all that is fused to them, norms, embedding.

Where Triton cannot run (a CPU, outside of `interpreted`) every operation takes its library form, which is also what
tests compare the kernels with.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from ....plugins.frame.contiguous import check_contiguous
from ....plugins.matmul import launch as matmul
from ....plugins.matmul import reference
from ....plugins.matmul.choice import Choice
from ....plugins.matmul.launch import Norm, Workspace
from .inputs import Inputs, prepare
from .lowered import Product

_interpreting = False
MOST_GATED_ROWS = 128
"""Beyond, a gated pair of INT8 layers runs as one product and its activation: two sums a program halve its blocks."""
ROW_KERNEL_WIDTH = 65536
"""Widest row that the row kernels take in one piece."""


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


@functools.cache
def kernels(module: str) -> Any:
    """Return a module of this engine's kernels, which needs Triton."""
    return importlib.import_module(f".kernels.{module}", __package__)


@functools.cache
def dependent_launch(device: torch.device) -> bool:
    """Whether the GPU (compute capability 9.0 on) starts a kernel before the one before it has ended."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 9


def launch_options(device: torch.device) -> dict[str, Any]:
    """Keywords for a kernel that waits for its input by itself."""
    return {"PDL": True, "launch_pdl": True} if dependent_launch(device) else {"PDL": False}


def launch(kernel: Any, grid: tuple[int, ...], tensors: tuple[Any, ...], **constants: Any) -> None:
    """Launch a kernel on the device of the first tensor; `constants` hold launch options too."""
    if tensors[0].device.type == "cuda":
        kernel[grid](*tensors, **constants)
        return
    from ....plugins.frame.interpreter import interpret

    interpret(kernel, grid, tensors, constants)


def power_of_two(size: int) -> int:
    """The smallest power of two that is at least `size`."""
    return 1 << max(0, size - 1).bit_length()


def linear(
    x: torch.Tensor,
    product: Product,
    choice: Choice,
    workspace: Workspace | None,
    *,
    norm: Norm | None = None,
    act: str | None = None,
    residual: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    reader: Inputs | None = None,
) -> torch.Tensor:
    """Return ``residual + act(norm(x) Wᵀ + b)``, gated: ``act(norm(x) Wᵀ + b) · (norm(x) Gᵀ + c)``.

    Parameters
    ----------
    x
        (N, in).
    product
        The layer; a partner it has is left out.
    choice
        How to compute it.
    workspace
        Memory of products that are split.
    norm, act, residual
        Left out where None; residual (N, out) may be changed in place and returned.
    out
        Where the result goes, of any float type; None: new memory of the computation's type.
    reader
        How the product that reads the result prepares it: a result in FP8 then saves a pass, where that is all it does.
    """
    weights = product.weights
    inputs, steps, kernel_runs = product.inputs, None, kernels_run_on(x.device.type)
    if x.dtype == torch.float8_e4m3fn:  # by the product before, see `reader`
        choice = Choice("library")
    elif inputs is not None and (inputs.apart or choice.kernel == "library"):
        x, steps = prepare(x, inputs, norm, kernels("inputs") if kernel_runs else None, launch_options(x.device))
        norm = None
    whole = product.whole if x.dtype == torch.int8 and x.shape[0] > MOST_GATED_ROWS else None
    if whole is not None and choice.kernel != "library" and kernel_runs:
        wide = x.new_empty((x.shape[0], whole.out_features), dtype=product.dtype)
        matmul.linear(x, whole, wide, choice, x_scale=steps, workspace=workspace, pdl=dependent_launch(x.device))
        return activate(wide, act, True)
    if choice.kernel != "library" and kernel_runs:
        if out is None:
            out = residual
        if out is None:
            out = x.new_empty((x.shape[0], weights.out_features), dtype=product.dtype)
        return matmul.linear(
            x,
            weights,
            out,
            choice,
            gate=product.gate,
            activation=act,
            residual=residual,
            norm=norm,
            x_scale=steps,
            workspace=workspace,
            pdl=dependent_launch(x.device),
        )
    if norm is not None:
        x = add_norm(x, None, norm)
    if weights.kind == "dense" and act is None and residual is not None and weights.bias is None:
        return residual.addmm_(x, weights.weight.t())  # the sum is part of the product, rounded once
    if x.dtype == torch.float8_e4m3fn:
        y = _fp8_product(x, steps, product, act, reader)
    else:
        y = _library_product(x, product, act, workspace, steps)
    if residual is not None:
        y = residual.add_(y)
    return y if out is None else out.copy_(y)


def _library_product(
    x: torch.Tensor, product: Product, act: str | None, workspace: Workspace | None, steps: torch.Tensor | None
) -> torch.Tensor:
    weights, gate = product.weights, product.gate
    if weights.kind == "dense" and (gate is None or (product.stacked is not None and weights.bias is None)):
        y = F.linear(x, weights.weight if product.stacked is None else product.stacked, weights.bias)
        return y if act is None and gate is None else activate(y, act, gate is not None)
    out = x.new_empty((x.shape[0], weights.out_features), dtype=product.dtype)
    return matmul.linear(
        x, weights, out, Choice("library"), gate=gate, activation=act, x_scale=steps, workspace=workspace
    )


def _fp8_product(
    x: torch.Tensor, steps: torch.Tensor | None, product: Product, act: str | None, reader: Inputs | None
) -> torch.Tensor:
    """Multiply FP8 inputs, whose steps are each token's or the layer's, by FP8 weights."""
    weights, gate = product.weights, product.gate
    if gate is not None and (product.stacked is None or weights.bias is not None or gate.bias is not None):
        y = _fp8_product(x, steps, replace(product, gate=None), act, None)
        return y.mul_(_fp8_product(x, steps, replace(product, weights=gate, gate=None), None, None))
    weight = weights.weight if gate is None else product.stacked
    scale = weights.scale if gate is None else product.stacked_scale
    assert weight is not None and scale is not None  # noqa: S101, PT018 - parts of the kind
    x_scale = weights.input_scale if steps is None else steps[:, None]
    assert x_scale is not None  # noqa: S101 - one of the two is there
    if x.is_cuda and x.shape[1] % 16 == 0 and weight.shape[0] % 16 == 0:
        per_row, exact = steps is not None, product.dtype == torch.float32
        y = torch._scaled_mm(
            x,
            weight.t(),
            scale_a=x_scale,
            scale_b=scale[None, :] if per_row else scale,
            bias=None if per_row or exact else weights.bias,
            out_dtype=torch.bfloat16 if per_row else product.dtype,
            use_fast_accum=not exact,  # sums of 14 bits: beside inputs of 4 bits that is nothing
        ).to(product.dtype)
        if (per_row or exact) and weights.bias is not None:
            y += weights.bias
    else:
        total = x.float() @ weight.float().t() * (x_scale * scale)
        y = (total if weights.bias is None else total + weights.bias.float()).to(product.dtype)
    if act is None and gate is None:
        return y
    return activate(y, act, gate is not None, ratios=product.ratios, reader=reader)


def add_norm(x: torch.Tensor, added: torch.Tensor | None, norm: Norm) -> torch.Tensor:
    """Add `added` (N, width) to x in place, and return the norm of the sum; all contiguous, or `SpecError`."""
    width = x.shape[1]
    if not kernels_run_on(x.device.type) or width > ROW_KERNEL_WIDTH:
        if added is not None:
            x.add_(added)
        return reference.normalize(x, norm)
    check_contiguous("add_norm", x=x, added=added, norm_weight=norm.weight, norm_bias=norm.bias)
    out = torch.empty_like(x)
    padded = power_of_two(width)
    launch(
        kernels("rows").add_norm_kernel,
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
        NORM=matmul.NORM_CODES[norm.kind],
        HAS_ADDED=added is not None,
        num_warps=min(8, max(1, padded // 512)),
        **launch_options(x.device),
    )
    return out


def activate(
    x: torch.Tensor,
    act: str | None,
    gated: bool,
    *,
    ratios: tuple[float, float] = (1.0, 1.0),
    reader: Inputs | None = None,
) -> torch.Tensor:
    """Return act(x), or act(first half) · (second half) of the columns.

    `ratios` multiply the halves first. For a `reader` of static FP8 inputs the result is FP8. An x that is not
    contiguous is a `SpecError`.
    """
    width = x.shape[1] // 2 if gated else x.shape[1]
    if not kernels_run_on(x.device.type):
        if not gated:
            return reference.activate(x, act)
        first, second = x[:, :width], x[:, width:]
        if ratios != (1.0, 1.0):
            first, second = first * ratios[0], second * ratios[1]
        return reference.activate(first, act) * second
    check_contiguous("activate", x=x)
    to_fp8 = reader is not None and reader.to == "fp8" and not reader.apart
    out = x.new_empty((x.shape[0], width), dtype=torch.float8_e4m3fn if to_fp8 else x.dtype)
    numel, block = out.numel(), 2048
    launch(
        kernels("rows").activate_kernel,
        (-(-numel // block),),
        (x, out, numel, reader.step if to_fp8 and reader is not None else None, *ratios),
        WIDTH=width,
        ACT=matmul.ACTIVATION_CODES[act],
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
    width = table.shape[1]
    if not kernels_run_on(ids.device.type) or width > ROW_KERNEL_WIDTH:
        x = F.embedding(ids, table)
        return x if position_table is None else x + F.embedding(positions.clamp_min(0), position_table)
    check_contiguous("embed", ids=ids, positions=positions, table=table, position_table=position_table)
    out = table.new_empty((ids.shape[0], width))
    padded = power_of_two(width)
    launch(
        kernels("rows").embed_kernel,
        (ids.shape[0],),
        (ids, positions, table, table if position_table is None else position_table, out),
        WIDTH=width,
        WIDTH_PADDED=padded,
        LEARNED=position_table is not None,
        num_warps=min(8, max(1, padded // 512)),
        **launch_options(ids.device),
    )
    return out
