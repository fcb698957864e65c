"""Profile an engine of the onnxruntime backend with ONNX Runtime's own profiler."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..readers.onnx_graph import read_onnx
from ..readers.onnxruntime_profile import read_profile
from ..reading import Reading, read_json
from .workload import Step, bind_step, timed_runs

if TYPE_CHECKING:
    from ...engine import Engine


def record_onnxruntime(
    engine: Engine, step: Step, *, num_runs: int, warm_up: int, trace: Path | None = None
) -> tuple[Reading, tuple[float, ...]]:
    """Return an engine's layers with their times in `step`, and the times of whole runs without the profiler.

    Parameters
    ----------
    trace
        Where to keep the profile as ONNX Runtime wrote it; None keeps it nowhere.
    """
    executor: Any = engine.executor()
    bind_step(executor, step)
    run_ms = timed_runs(executor, num_runs, warm_up)
    executor.close()
    with tempfile.TemporaryDirectory(prefix="trtbench-profile-") as folder:
        executor = engine.executor(profile_prefix=str(Path(folder) / "profile"))
        bind_step(executor, step)
        timed_runs(executor, num_runs, warm_up)
        profiles = executor.end_profiling()
        executor.close()
        # An engine may hold a second network for prompts: the profile of the one that ran is the larger.
        network, profile = max(profiles.items(), key=lambda pair: pair[1].stat().st_size)
        reading = read_profile(read_json(profile), str(profile), graph=read_onnx(network).layers, skip_runs=warm_up + 1)
        if trace is not None:
            shutil.copyfile(profile, trace)
    return reading, run_ms
