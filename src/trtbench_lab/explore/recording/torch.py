"""Profile an engine of the torch backend with torch's profiler; every module of the decoder is marked in the trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..readers.torch_modules import parameters_of
from ..readers.torch_trace import MODULE_MARK
from ..reading import Reading
from .fused import has_fused_steps, record_fused
from .profiler import recorded_trace
from .workload import Step, bind_step, timed_runs, unguarded

if TYPE_CHECKING:
    import torch


def record_torch(
    executor: Any, step: Step, *, num_runs: int, warm_up: int, trace: Path | None = None
) -> tuple[Reading, tuple[float, ...]]:
    """Return an executor's layers with their times in `step`, and the times of whole runs without the profiler.

    Layers are what generation runs: fused steps where the engine has them, else the decoder's operators by module.

    Parameters
    ----------
    trace
        Where to keep the trace as torch wrote it (Chrome's format); None keeps it nowhere.
    """
    if has_fused_steps(executor):
        return record_fused(executor, step, num_runs=num_runs, warm_up=warm_up, trace=trace)
    bind_step(executor, step)
    run_ms = timed_runs(executor, num_runs, warm_up)
    decoder = executor.modules()
    weights = parameters_of(decoder)
    with marked_modules(decoder), unguarded(executor):
        return recorded_trace(executor.run, executor, num_runs=num_runs, trace=trace, weights=weights), run_ms


@contextmanager
def marked_modules(decoder: torch.nn.Module) -> Iterator[None]:
    """Mark the beginning and end of each module's forward pass in traces taken meanwhile."""
    import torch

    handles: list[Any] = []
    running: list[Any] = []

    def begin(name: str) -> Any:
        def hook(module: Any, arguments: Any) -> None:
            mark = torch.profiler.record_function(f"{MODULE_MARK}{name}")
            mark.__enter__()
            running.append(mark)

        return hook

    def end(module: Any, arguments: Any, result: Any) -> None:
        running.pop().__exit__(None, None, None)

    try:
        for name, module in decoder.named_modules():
            handles.append(module.register_forward_pre_hook(begin(name or "decoder")))
            handles.append(module.register_forward_hook(end, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
