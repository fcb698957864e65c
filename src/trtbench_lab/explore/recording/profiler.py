"""Runs under torch's profiler, and what it wrote, read."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..readers.torch_trace import RUN_MARK, read_trace
from ..reading import Reading, read_json


def recorded_trace(
    run: Callable[[], Any],
    executor: Any,
    *,
    num_runs: int,
    trace: Path | None,
    weights: Mapping[str, tuple[int, str]] | None = None,
) -> Reading:
    """Run something again and again under the profiler, and return what its trace says.

    Parameters
    ----------
    run
        Queues one run on the executor's device.
    executor
        Knows the device, and waits for it.
    num_runs
        Recorded runs.
    trace
        Where to keep the trace as torch wrote it (Chrome's format); None keeps it nowhere.
    weights
        See `read_trace`.
    """
    import torch

    activities = [torch.profiler.ProfilerActivity.CPU]
    if executor.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with tempfile.TemporaryDirectory(prefix="trtbench-profile-") as folder:
        written = Path(folder) / "trace.json"
        run()  # the first marked run is not recorded: marks have costs of their own at first
        executor.synchronize()
        profiler = torch.profiler.profile(activities=activities, record_shapes=True)
        with _quiet_library():
            profiler.start()
        try:
            for number in range(num_runs):
                with torch.profiler.record_function(f"{RUN_MARK}{number}"):
                    run()
                    executor.synchronize()
        finally:
            with _quiet_library():
                profiler.stop()
        profiler.export_chrome_trace(str(written))
        reading = read_trace(read_json(written), str(written), weights=weights)
        if trace is not None:
            shutil.copyfile(written, trace)
    return reading


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
