"""Launch a matrix kernel: the door for engines, whose steps are CUDA graphs of such launches.

Nothing here allocates but `Workspace`, which must be large enough before a graph is captured (`Workspace.reserve`).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch

from ...errors import SpecError
from ..frame.contiguous import check_contiguous
from ..frame.triton_form import kernel_module
from .candidates import DIRECT_ROWS, PROGRAMS, candidates
from .choice import Choice, Problem
from .weights import KIND_CODES, WORD, LinearWeights, check_multiple

ACTIVATION_CODES = {
    None: 0,
    "gelu_tanh": 1,
    "gelu_new": 1,
    "gelu_fast": 1,
    "gelu_pytorch_tanh": 1,
    "gelu": 2,
    "silu": 3,
    "relu": 4,
    "squared_relu": 5,
}
NORM_CODES = {None: 0, "rms": 1, "layer": 2}
GROUP_M = 8
"""Blocks of rows that run together in a large product."""
REGISTERS = 65536
"""Registers of a multiprocessor."""
_MODULES = {
    "matvec": "trtbench_lab.plugins.matmul.kernels.matvec",
    "slice": "trtbench_lab.plugins.matmul.kernels.slice",
    "tile": "trtbench_lab.plugins.matmul.kernels.tile",
    "direct": "trtbench_lab.plugins.matmul.kernels.direct",
    "stream": "trtbench_lab.plugins.matmul.kernels.stream",
}


@dataclass(frozen=True)
class Norm:
    """A normalisation of x in the kernel's prologue: ``kind`` "rms" or "layer"; bias (K,) for layer norms, or None."""

    kind: str
    weight: torch.Tensor
    bias: torch.Tensor | None
    epsilon: float


class Workspace:
    """Scratch memory of products that are split along K, and of dequantized weights; shared by launches of one stream.

    Parameters
    ----------
    device
        Where.
    """

    def __init__(self, device: torch.device):
        self.partial = torch.empty(0, dtype=torch.float32, device=device)
        self.counters = torch.zeros(0, dtype=torch.int32, device=device)
        self.dense = torch.empty(0, dtype=torch.uint8, device=device)

    def reserve(self, problem: Problem, choice: Choice) -> None:
        """Grow to what a product needs; call it for every product before a graph is captured."""
        if choice.kernel == "tile" and choice.split_k > 1:
            blocks = -(-problem.rows // choice.block_m) * -(-problem.out_features // choice.block_n)
            self.grow_partial(blocks, choice, 2 if problem.gated else 1)
        if choice.kernel == "library" and problem.kind in ("int8", "int4"):
            self.grow_dense(problem.out_features * problem.in_features * 2)

    def grow_partial(self, blocks: int, choice: Choice, sums: int) -> None:
        """Make room for the partial sums of `blocks` blocks."""
        floats = blocks * choice.split_k * choice.block_m * choice.block_n * sums
        if self.partial.numel() < floats:
            self.partial = torch.empty(floats, dtype=torch.float32, device=self.partial.device)
        if self.counters.numel() < blocks:
            self.counters = torch.zeros(blocks, dtype=torch.int32, device=self.counters.device)

    def grow_dense(self, nbytes: int) -> None:
        """Make room for a dequantized weight."""
        if self.dense.numel() < nbytes:
            self.dense = torch.empty(nbytes, dtype=torch.uint8, device=self.dense.device)


def linear(
    x: torch.Tensor,
    weights: LinearWeights,
    out: torch.Tensor,
    choice: Choice,
    *,
    gate: LinearWeights | None = None,
    activation: str | None = None,
    residual: torch.Tensor | None = None,
    norm: Norm | None = None,
    x_scale: torch.Tensor | None = None,
    workspace: Workspace | None = None,
    pdl: bool = False,
) -> torch.Tensor:
    """Compute ``out = act(norm(x) Wᵀ + b) · (norm(x) Gᵀ + c) + residual``; each part but W may be absent.

    Parameters
    ----------
    x
        (M, K), contiguous; int8 for weights of kind int8_int8, float8_e4m3fn for fp8_fp8.
    weights
        W and b. For 4-bit weights `LinearWeights.interleaved` is the quicker order; both are right.
    out
        (M, N), contiguous; may be `residual` itself. All of it is written.
    choice
        From `tune`, or `default_choice`.
    gate
        G and c, of the same kind and shape as W: the other factor of a gated MLP. W is the activated one (`mlp.fc`).
    activation
        A name of `ACTIVATION_CODES`.
    residual
        (M, N), contiguous, added last.
    norm
        Normalises x first, rounding to x's type as the separate operation does. Each program repeats it: for few rows.
    x_scale
        (M,) float32, scale of each row of an 8-bit x; None takes ``weights.input_scale``.
    workspace
        Needed where ``choice.split_k > 1`` and for ``"library"`` with quantized weights.
    pdl
        Programmatic dependent launch: the kernel starts while the one before it on the stream still runs, requests its
        weights, and waits for that kernel's results before it touches x or writes anything. Needs compute capability
        9.0; right after any kernel. The weights must not be written by the kernel before.

    Returns
    -------
    `out`

    Raises
    ------
    SpecError
        When extents do not fit, a tensor is not contiguous, or the chosen kernel does not take such operands.

    Notes
    -----
    Sums are float32 (int32 for int8 × int8), and are rounded to the type of `out` once, after everything. The
    same inputs give the same bits.
    """
    rows, columns = x.shape
    if columns != weights.in_features or out.shape != (rows, weights.out_features):
        raise SpecError(
            f"x is {tuple(x.shape)}, the weight ({weights.out_features}, {weights.in_features}) and out "
            f"{tuple(out.shape)}.",
            where="linear",
            remedy="Pass x (M, K) and out (M, N).",
        )
    if residual is not None and residual.shape != out.shape:
        raise SpecError(
            f"The residual is {tuple(residual.shape)} and out {tuple(out.shape)}.",
            where="linear",
            remedy="Pass a residual (M, N); nothing is broadcast.",
        )
    if x_scale is not None and (x_scale.numel() != rows or x.element_size() != 1):
        raise SpecError(
            f"{x_scale.numel()} scales are given for {rows} rows of {x.dtype}.",
            where="linear",
            remedy="Pass x_scale (M,) for an x of 8 bits, and none for another.",
        )
    check_contiguous("linear", x=x, out=out, residual=residual, x_scale=x_scale)
    if norm is not None:
        check_contiguous("linear", norm_weight=norm.weight, norm_bias=norm.bias)
    weights, gate = weights.as_they_lie, None if gate is None else gate.as_they_lie
    if rows == 0:
        return out
    if gate is not None and _form(gate) != _form(weights):
        raise SpecError(
            "The two weights of a gated product differ in kind, extents, scales, groups or order of 4-bit elements.",
            where="linear",
            remedy="Store both alike.",
        )
    if choice.kernel == "library":
        from .library import library_linear

        return library_linear(
            x,
            weights,
            out,
            gate=gate,
            activation=activation,
            residual=residual,
            norm=norm,
            x_scale=x_scale,
            workspace=workspace,
        )
    grid, arguments, constants = plan(
        x, weights, out, choice, gate, activation, residual, norm, x_scale, workspace, pdl=pdl
    )
    kernel = getattr(kernel_module(_MODULES[choice.kernel]), f"{choice.kernel}_kernel")
    if x.is_cuda:
        options: dict[str, Any] = {"num_warps": choice.num_warps, "num_stages": choice.num_stages}
        if pdl:
            options["launch_pdl"] = True
        if choice.kernel == "stream":
            options["maxnreg"] = registers_of(choice)
        kernel[grid](*arguments, **constants, **options)
    elif choice.kernel in ("direct", "stream"):
        raise SpecError(
            f"The kernel `{choice.kernel}` is written in Gluon, which Triton's interpreter does not know.",
            where="choice.kernel",
            remedy="Use matvec, slice or tile on a CPU.",
        )
    else:
        from ..frame.interpreter import interpret

        interpret(kernel, grid, arguments, constants)
    return out


def plan(
    x: torch.Tensor,
    weights: LinearWeights,
    out: torch.Tensor,
    choice: Choice,
    gate: LinearWeights | None,
    activation: str | None,
    residual: torch.Tensor | None,
    norm: Norm | None,
    x_scale: torch.Tensor | None,
    workspace: Workspace | None,
    *,
    pdl: bool,
) -> tuple[tuple[int, ...], list[Any], dict[str, Any]]:
    """Return grid, arguments and constants of a launch."""
    rows, in_features, out_features = x.shape[0], weights.in_features, weights.out_features
    kind = KIND_CODES[weights.kind]
    if weights.kind == "int4":
        check_multiple(weights, WORD)
    scales = weights.input_scale if x_scale is None else x_scale
    _check_scales(weights, scales)
    arguments: list[Any] = [
        x,
        _stored(weights),
        None if gate is None else _stored(gate),
        weights.scale,
        None if gate is None else gate.scale,
        weights.zero,
        None if gate is None else gate.zero,
        weights.pre_scale,
        scales,
        weights.bias,
        None if gate is None else gate.bias,
        residual,
        None if norm is None else norm.weight,
        None if norm is None else norm.bias,
        rows,
        out,
    ]
    constants: dict[str, Any] = {
        "N": out_features,
        "K": in_features,
        "KIND": kind,
        "GROUP": weights.group_size or 0,
        "NIBBLES": weights.nibbles,
        "NORM": NORM_CODES[None if norm is None else norm.kind],
        "EPSILON": 0.0 if norm is None else norm.epsilon,
        "ACTIVATION": ACTIVATION_CODES[activation],
        "BLOCK_N": choice.block_n,
        "PDL": pdl,
    }
    blocks_n = -(-out_features // choice.block_n)
    if choice.kernel == "matvec":
        if rows != 1:
            raise SpecError(
                f"The matrix-vector kernel takes one row, not {rows}.",
                where="choice.kernel",
                remedy="Use slice or tile.",
            )
        if weights.kind in ("int8_int8", "fp8_fp8"):
            raise SpecError(
                f"The matrix-vector kernel takes no inputs of 8 bits, as weights of kind {weights.kind} do.",
                where="choice.kernel",
                remedy="Use slice or tile.",
            )
        words = weights.kind == "int8" and in_features % 4 == 0
        if words:  # four to a word: their bits become numbers without a conversion
            arguments[1:3] = [part if part is None else part.view(torch.int32) for part in arguments[1:3]]
        wide = 2 if words else 4 if weights.kind == "int4" or x.element_size() == 4 else 8
        _check_groups(weights, wide * (4 if words else WORD if weights.kind == "int4" else 1))
        constants |= {"BLOCK_V": choice.block_c, "V": wide, "BLOCK_X": _power_of_two(in_features)}
        return (blocks_n,), arguments, constants
    if choice.kernel in ("direct", "stream"):
        return _register_plan(weights, choice, rows, arguments, constants)
    one_scale = weights.scale is not None and weights.group_size is None and weights.scale.numel() == 1
    constants |= {
        "ONE_SCALE": one_scale and out_features > 1,
        "ROW_SCALES": x_scale is not None,
        "BLOCK_M": choice.block_m,
        "BLOCK_C": choice.block_c,
        "BLOCK_X": min(512, _power_of_two(in_features)),
    }
    blocks_m = -(-rows // choice.block_m)
    if choice.kernel == "slice":
        constants["SLICES"] = choice.num_warps
        return (blocks_n, blocks_m), arguments, constants
    partial = counters = None
    if choice.split_k > 1:
        if workspace is None:
            raise SpecError("A product that is split along K needs a workspace.", where="linear", remedy="Pass one.")
        workspace.grow_partial(blocks_m * blocks_n, choice, 1 if gate is None else 2)
        partial, counters = workspace.partial, workspace.counters
    arguments += [partial, counters]
    constants |= {
        "SPLIT_K": choice.split_k,
        "GROUP_M": GROUP_M,
        "SWAP": choice.swap,
        "STAGES": choice.num_stages,
    }
    return (blocks_m * blocks_n, choice.split_k), arguments, constants


def _check_scales(weights: LinearWeights, x_scale: torch.Tensor | None) -> None:
    """Refuse weights whose scales or groups no kernel reads rightly."""
    if weights.kind in ("fp8", "int8_int8", "fp8_fp8") and x_scale is None:
        raise SpecError(
            f"Weights of kind {weights.kind} need the scale of the inputs.",
            where="linear",
            remedy="Pass x_scale, or weights with input_scale.",
        )
    if weights.zero is not None and weights.group_size is None:
        raise SpecError(
            "Zero points belong to groups, and these weights have none.",
            where="linear",
            remedy="Pass group_size, K for one group a row.",
        )
    _check_groups(weights, WORD if weights.kind == "int4" else 1)


def _check_groups(weights: LinearWeights, unit: int) -> None:
    """Refuse groups that end within what a thread reads at once, or beyond the row."""
    group = weights.group_size
    if group in (None, weights.in_features):
        return
    if group % unit or weights.in_features % group:
        raise SpecError(
            f"Groups of {group} do not divide {weights.in_features} input features, or are no multiple of {unit}.",
            where="linear",
            remedy="Use groups of 32, 64 or 128 that divide K, or the library's product.",
        )


def _register_plan(
    weights: LinearWeights, choice: Choice, rows: int, arguments: list[Any], constants: dict[str, Any]
) -> tuple[tuple[int, ...], list[Any], dict[str, Any]]:
    """Finish the plan of ``"direct"`` or ``"stream"``: their weights are words of 32 bits, but for 16-bit ones."""
    stream = choice.kernel == "stream"
    kinds = ("dense", "fp8", "int8") if stream else ("dense", "fp8")
    fits = rows <= DIRECT_ROWS and arguments[0].element_size() == 2 and weights.zero is None
    if weights.kind == "int4":
        fits &= weights.nibbles == choice.block_c
        fits &= not stream or weights.group_size in (None, WORD * choice.block_c)
    else:  # whose scales, where they have any, are of whole outputs
        fits &= weights.kind in kinds and weights.group_size is None
        fits &= weights.kind != "dense" or weights.weight.dtype == arguments[0].dtype
    fits &= weights.in_features % 16 == 0
    if not fits:
        raise SpecError(
            f"The kernel `{choice.kernel}` takes up to {DIRECT_ROWS} rows in 16 bits and weights without zero points, "
            f"of kind {', '.join(kinds)}, or int4 in blocks of block_c = {choice.block_c} words"
            f"{f' and groups of {WORD * choice.block_c}' if stream else ''}, not these.",
            where="choice.kernel",
            remedy="Use matvec, slice or tile.",
        )
    cell = WORD if weights.kind == "int4" else 1 if weights.kind == "dense" else 4
    step, padded = choice.block_c * choice.num_warps * cell, _power_of_two(weights.in_features)
    # A round of the stream reads as many steps of inputs, which have to lie within their padding.
    ahead = step * choice.num_stages if stream else step
    if step > padded or -(-weights.in_features // ahead) * ahead > padded:
        raise SpecError(
            f"{choice.num_warps} warps of {choice.block_c} cells, {choice.num_stages} steps ahead, pass the end of "
            f"{weights.in_features} input features, which are kept as {padded}.",
            where="choice",
            remedy="Take fewer cells, warps or steps ahead; `candidates` names those that fit.",
        )
    if weights.kind in ("fp8", "int8"):
        arguments[1:3] = [part if part is None else part.view(torch.int32) for part in arguments[1:3]]
    constants = constants | {
        "ONE_SCALE": weights.scale is not None and weights.group_size is None and weights.scale.numel() == 1,
        "ROWS": 1 if rows == 1 else DIRECT_ROWS,
        "BLOCK_C": choice.block_c,
        "SLICES": choice.num_warps,
        "K_PADDED": padded,
    }
    gated = arguments[2] is not None
    if stream and gated and (arguments[9] is None) != (arguments[10] is None):
        raise SpecError(
            "One of the two weights of a gated product has a bias.", where="choice.kernel", remedy="Use matvec or tile."
        )
    blocks = -(-weights.out_features // (choice.block_n // 2 if stream and gated else choice.block_n))
    if not stream:
        return (blocks,), arguments, constants
    programs = min(blocks, choice.split_k * multiprocessors(arguments[0].device))
    return (programs,), arguments, constants | {"AHEAD": choice.num_stages, "PROGRAMS": programs}


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Return how many multiprocessors a GPU has; for a CPU those of the GPU that candidates were ordered on."""
    if device.type != "cuda":
        return PROGRAMS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def registers_of(choice: Choice) -> int:
    """Return the registers that a thread of ``"stream"`` may use: the programs share a multiprocessor's.

    Without a word of it the assembler takes half as many, and the products are up to a tenth slower (H200).
    """
    return int(min(255, REGISTERS // (32 * choice.num_warps * choice.split_k) // 8 * 8))


def problem_of(
    rows: int, weights: LinearWeights, dtype: torch.dtype, *, gated: bool = False, norm: str | None = None
) -> Problem:
    """Return the problem that a layer's product is tuned as."""
    return Problem(
        rows=rows,
        out_features=weights.out_features,
        in_features=weights.in_features,
        kind=weights.kind,
        dtype=str(dtype).removeprefix("torch."),
        group_size=weights.group_size,
        zeros=weights.zero is not None,
        gated=gated,
        norm=norm,
    )


def default_choice(problem: Problem) -> Choice:
    """Return a choice that is right everywhere and good on a recent GPU, without measuring."""
    return candidates(problem)[0]


def _form(weights: LinearWeights) -> tuple[object, ...]:
    scales = 0 if weights.scale is None else weights.scale.numel()
    has = (weights.zero is not None, weights.pre_scale is not None, scales)
    extents = (weights.out_features, weights.in_features)
    return (weights.kind, *extents, weights.group_size, weights.nibbles, *has)


def _stored(weights: LinearWeights) -> torch.Tensor:
    return weights.weight.view(torch.int32) if weights.kind == "int4" else weights.weight


def _power_of_two(size: int) -> int:
    return 1 << max(0, size - 1).bit_length()
