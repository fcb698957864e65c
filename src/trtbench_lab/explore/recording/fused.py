"""Profile what an engine of the torch backend generates with: the fused steps of its session, not its modules."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..readers.fused_steps import fused_layers, with_times
from ..readers.torch_trace import MODULE_MARK
from ..reading import Reading
from .profiler import recorded_trace
from .workload import DECODE, Step, random_prompts, timed

_FORM = "fused steps of the torch backend"


def has_fused_steps(executor: Any) -> bool:
    """Whether generation runs fused steps on this executor: of the paged form, without stages."""
    return hasattr(executor, "fused_session") and executor.config.mapping.pp_size == 1


def record_fused(
    executor: Any, step: Step, *, num_runs: int, warm_up: int, trace: Path | None = None
) -> tuple[Reading, tuple[float, ...]]:
    """Return the fused steps with their times in `step`, and the times of whole runs as generation makes them.

    On a GPU a decode step is one graph, which tells nothing of its parts. So the whole runs are replays of it, and the
    profiled ones queue the same kernels one by one; a step's time is that of its kernels, without gaps between them.

    Parameters
    ----------
    trace
        Where to keep the trace as torch wrote it (Chrome's format); None keeps it nowhere.
    """
    session = executor.fused_session()
    whole, one_by_one = _runs(session, step, executor.config.vocab_size)
    run_ms = timed(whole, executor.synchronize, num_runs, warm_up)
    with marked_steps(session.steps):
        recorded = recorded_trace(one_by_one, executor, num_runs=num_runs, trace=trace)
    layers = with_times(fused_layers(session.steps.model, step, session.plan.dtype), recorded.layers)
    notes = list(recorded.notes)
    if executor.device.type == "cuda" and step.phase == DECODE:
        notes.append(
            "Generation replays a step as one CUDA graph: that is what whole runs time. Layers are the same kernels "
            "queued one by one."
        )
    return dataclasses.replace(recorded, form=_FORM, layers=layers, notes=notes), run_ms


def _runs(session: Any, step: Step, vocab_size: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return what runs the step as generation does, and what runs it kernel by kernel; both any number of times."""
    prompts = random_prompts(step, vocab_size)
    if step.phase != DECODE:
        return (lambda: session.start(prompts, 0),) * 2
    session.start(prompts, 1)
    session.greedy()  # the token after the prompt; what follows is the step that reads it, in the same cache slots
    return session.forward, session.forward_eagerly


@contextmanager
def marked_steps(steps: Any) -> Iterator[None]:
    """Mark each fused step in traces taken meanwhile."""
    import torch

    before = steps.mark
    steps.mark = lambda name: torch.profiler.record_function(f"{MODULE_MARK}{name}")
    try:
        yield
    finally:
        steps.mark = before
