"""Look into a loaded TensorRT engine: its inspector's JSON, and layer times from TensorRT's profiler."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..readers.tensorrt_json import read_inspector
from ..reading import Reading
from .workload import Step, bind_step, timed_runs


def inspect_tensorrt(executor: Any) -> Reading:
    """Return the layers of a loaded TensorRT engine, without times."""
    from ...backends.tensorrt.inspection import engine_information

    plan = executor.plans()[0]
    return read_inspector(engine_information(plan.engine), plan.file.file)


def record_tensorrt(
    executor: Any, step: Step, *, num_runs: int, warm_up: int, trace: Path | None = None
) -> tuple[Reading, tuple[float, ...]]:
    """Return the layers of a loaded TensorRT engine with their times in `step`, and the times of whole runs.

    Parameters
    ----------
    trace
        Where to keep the layer profile; None keeps it nowhere.
    """
    from ...backends.tensorrt.inspection import engine_information
    from ...backends.tensorrt.layer_profile import profile_layers

    bind_step(executor, step)
    run_ms = timed_runs(executor, num_runs, warm_up)
    profile = profile_layers(executor, runs=num_runs, warmup=warm_up)
    current = executor.current_step()
    plan = executor.plans()[current.place[0]]
    content = engine_information(plan.engine, executor.own_context(current).context)
    if trace is not None:
        trace.write_text(json.dumps(profile.to_dict(), indent=1) + "\n", encoding="utf-8")
    return read_inspector(content, plan.file.file, profile.layers), run_ms
