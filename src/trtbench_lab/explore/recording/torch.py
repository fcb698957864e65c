"""Profile an engine of the torch backend with torch's profiler; every module of the decoder is marked in the trace."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..readers.torch_modules import parameters_of
from ..readers.torch_trace import MODULE_MARK, RUN_MARK, read_trace
from ..reading import Reading, read_json
from .workload import Step, bind_step, timed_runs, unguarded

if TYPE_CHECKING:
    import torch


def record_torch(
    executor: Any, step: Step, *, num_runs: int, warm_up: int, trace: Path | None = None
) -> tuple[Reading, tuple[float, ...]]:
    """Return an executor's layers with their times in `step`, and the times of whole runs without the profiler.

    Parameters
    ----------
    trace
        Where to keep the trace as torch wrote it (Chrome's format); None keeps it nowhere.
    """
    import torch

    bind_step(executor, step)
    run_ms = timed_runs(executor, num_runs, warm_up)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if executor.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    decoder = executor.modules()
    with tempfile.TemporaryDirectory(prefix="trtbench-profile-") as folder:
        written = Path(folder) / "trace.json"
        with marked_modules(decoder), unguarded(executor):
            executor.run()  # the first marked run is not recorded: marks have costs of their own at first
            executor.synchronize()
            profiler = torch.profiler.profile(activities=activities, record_shapes=True)
            with _quiet_library():
                profiler.start()
            try:
                for number in range(num_runs):
                    with torch.profiler.record_function(f"{RUN_MARK}{number}"):
                        executor.run()
                        executor.synchronize()
            finally:
                with _quiet_library():
                    profiler.stop()
        profiler.export_chrome_trace(str(written))
        reading = read_trace(read_json(written), str(written), weights=parameters_of(decoder))
        if trace is not None:
            shutil.copyfile(written, trace)
    if executor.device.type == "cuda" and hasattr(executor, "fused_session"):
        reading.notes.append(
            "What is timed are the decoder's modules, one kernel launch after another; generation runs fused steps in "
            "CUDA graphs, which are faster and tell no modules."
        )
    return reading, run_ms


@contextmanager
def _quiet_library() -> Iterator[None]:
    """Keep what the profiler's native library says on starting and stopping from the terminal."""
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # no such file: a process without a terminal or log
        yield
        return
    silent = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(silent, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(silent)


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
