"""Choose a kernel by measuring: each candidate over weights that the cache does not hold, in a CUDA graph."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from ...errors import SpecError
from .candidates import candidates
from .choice import Choice, Problem
from .launch import Norm, Workspace, linear
from .weights import LinearWeights

COLD_BYTES = 192 << 20
"""Weights that a measurement walks over: three times the largest cache of today's GPUs."""
REPEATS = 5
LEAST_GAIN = 0.02
"""A later candidate must be this much quicker than an earlier one: what is less is noise."""


@dataclass(frozen=True)
class Timing:
    """One measured candidate; `microseconds` is the median of a launch, or None with `reason` where it failed."""

    choice: Choice
    microseconds: float | None
    reason: str = ""


def tune(
    problem: Problem,
    device: torch.device,
    *,
    among: Sequence[Choice] | None = None,
    pdl: bool = False,
    log: Callable[[Problem, list[Timing]], None] | None = None,
) -> Choice:
    """Measure the candidates for a product on `device` and return the quickest.

    Parameters
    ----------
    problem
        The product.
    device
        A CUDA device; nothing else may run on it meanwhile.
    among
        Candidates; None takes `candidates(problem)`.
    pdl
        Measure with programmatic dependent launch, as an engine with it runs.
    log
        Is told of all timings.

    Returns
    -------
    A `Choice`; ``to_dict`` makes it data for an engine or a cache, under ``problem.key``.

    Raises
    ------
    SpecError
        When the device is no GPU, or no candidate runs.
    """
    if device.type != "cuda":
        raise SpecError(
            "Kernels are measured on a GPU.", where=str(device), remedy="Use default_choice, or build on the GPU."
        )
    timings = measure(problem, device, list(candidates(problem) if among is None else among), pdl=pdl)
    if log is not None:
        log(problem, timings)
    best: Timing | None = None
    for timing in timings:
        if timing.microseconds is None:
            continue
        if best is None or best.microseconds is None or timing.microseconds < best.microseconds * (1 - LEAST_GAIN):
            best = timing
    if best is None:
        raise SpecError(
            f"No kernel computes {problem.key} on this GPU.",
            where=str(device),
            remedy="Look at the details; use the library's product (Choice('library')).",
            details="; ".join(f"{timing.choice}: {timing.reason}" for timing in timings),
        )
    return best.choice


def measure(problem: Problem, device: torch.device, choices: Sequence[Choice], *, pdl: bool = False) -> list[Timing]:
    """Time each choice on random data: median microseconds of a launch over cold weights."""
    case = Case(problem, device)
    for choice in choices:
        case.workspace.reserve(problem, choice)
    failures = _compile(case, choices, pdl)
    return [
        Timing(choice, None, failures[choice]) if choice in failures else case.time(choice, pdl) for choice in choices
    ]


def _compile(case: Case, choices: Sequence[Choice], pdl: bool) -> dict[Choice, str]:
    """Compile all candidates side by side; return what failed and why."""

    def attempt(choice: Choice) -> str:
        try:
            with torch.cuda.device(case.device):
                case.run(choice, 0, pdl=pdl)
        except Exception as error:
            return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return ""

    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(choices, pool.map(attempt, choices), strict=True))
    torch.cuda.synchronize(case.device)
    return {choice: reason for choice, reason in found.items() if reason}


class Case:
    """Random operands of a problem: enough copies of the weight that a pass over them leaves none in the cache."""

    def __init__(self, problem: Problem, device: torch.device):
        self.problem, self.device = problem, device
        self.workspace = Workspace(device)
        self.dtype = getattr(torch, problem.dtype)
        generator = torch.Generator(device).manual_seed(0)
        self.copies = max(2, min(64, -(-COLD_BYTES // problem.weight_bytes)))
        self.weights = [random_weights(problem, generator) for _ in range(self.copies)]
        self.gates = [random_weights(problem, generator) if problem.gated else None for _ in range(self.copies)]
        shape = (problem.rows, problem.in_features)
        x = torch.randn(shape, generator=generator, device=device)
        self.x_scale: torch.Tensor | None = None
        if problem.kind in ("int8_int8", "fp8_fp8"):
            target = torch.int8 if problem.kind == "int8_int8" else torch.float8_e4m3fn
            self.x = (x * 40).clamp(-127, 127).to(target)
            self.x_scale = torch.full((problem.rows,), 0.025, device=device)
        else:
            self.x = x.to(self.dtype)
        self.out = torch.empty(problem.rows, problem.out_features, dtype=self.dtype, device=device)
        self.norm: Norm | None = None
        if problem.norm is not None:
            weight = torch.randn(problem.in_features, generator=generator, device=device).to(self.dtype)
            self.norm = Norm(problem.norm, weight, weight if problem.norm == "layer" else None, 1e-5)

    def run(self, choice: Choice, copy: int, *, pdl: bool = False) -> torch.Tensor:
        """Launch once."""
        return linear(
            self.x,
            self.weights[copy],
            self.out,
            choice,
            gate=self.gates[copy],
            activation="silu" if self.problem.gated else None,
            norm=self.norm,
            x_scale=self.x_scale,
            workspace=self.workspace,
            pdl=pdl and choice.kernel != "library",
        )

    def time(self, choice: Choice, pdl: bool) -> Timing:
        """Replay a graph of one launch for each copy of the weight."""
        try:
            stream = torch.cuda.Stream(self.device)
            with torch.cuda.stream(stream):
                self.run(choice, 0, pdl=pdl)
                stream.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=stream):
                    for copy in range(self.copies):
                        self.run(choice, copy, pdl=pdl)
                graph.replay()
                samples = []
                for _ in range(REPEATS):
                    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                    begin.record(stream)
                    graph.replay()
                    end.record(stream)
                    end.synchronize()
                    samples.append(begin.elapsed_time(end) * 1000 / self.copies)
        except RuntimeError as error:
            return Timing(choice, None, str(error).splitlines()[0])
        return Timing(choice, statistics.median(samples))


def random_weights(problem: Problem, generator: torch.Generator) -> LinearWeights:
    """Return weights of a problem on the generator's device: random numbers, because zeros run quicker."""
    device, dtype = generator.device, getattr(torch, problem.dtype)
    rows, columns = problem.out_features, problem.in_features

    def uniform(*shape: int, low: float, high: float, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, device=device).uniform_(low, high, generator=generator).to(dtype)

    def integers(*shape: int) -> torch.Tensor:
        return torch.randint(-128, 128, shape, generator=generator, device=device, dtype=torch.int8)

    parts: dict[str, Any] = {"group_size": problem.group_size}
    if problem.kind == "dense":
        weight = torch.randn(rows, columns, generator=generator, device=device, dtype=torch.float32).to(dtype)
    elif problem.kind in ("fp8", "fp8_fp8"):
        weight = torch.randn(rows, columns, generator=generator, device=device).to(torch.float8_e4m3fn)
        count = rows if problem.kind == "fp8_fp8" else 1
        parts["scale"] = torch.full((count,), 0.01, device=device)
        if problem.kind == "fp8":
            parts["input_scale"] = torch.full((1,), 0.01, device=device)
    else:
        weight = integers(rows, columns // 2 if problem.kind == "int4" else columns)
        groups = () if problem.group_size is None else (columns // problem.group_size,)
        wide = torch.float32 if problem.kind == "int8_int8" else dtype
        parts["scale"] = uniform(rows, *groups, low=0.001, high=0.01, dtype=wide)
        if problem.zeros:
            parts["zero"] = torch.randint(-8, 8, (rows, *groups), generator=generator, device=device, dtype=torch.int16)
    return LinearWeights(problem.kind, weight, rows, columns, **parts).interleaved()
