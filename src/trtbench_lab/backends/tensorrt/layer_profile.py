"""Time of each layer in a run, as TensorRT reports it, in a form that is kept beside the engine and explored later."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ...errors import EngineError
from ...storage import storage_error
from .bindings_check import tensorrt
from .executor import TensorRTExecutor

FORMAT = "trtbench-layer-profile-1"


@dataclass(frozen=True)
class LayerProfile:
    """Layer times of several runs of one set of shapes.

    Attributes
    ----------
    backend, plan, profile_index, phase
        Who ran it, on which plan's which optimization profile.
    shapes
        Input → shape.
    runs
        Runs that were timed.
    gpu
        Name of the GPU.
    layers
        Layer name → milliseconds, one a run. The names are those of the inspector's JSON.
    """

    backend: str
    plan: str
    profile_index: int
    phase: str
    shapes: dict[str, tuple[int, ...]]
    runs: int
    gpu: str
    layers: dict[str, tuple[float, ...]]

    def median_ms(self) -> dict[str, float]:
        """Return the median time of each layer."""
        return {name: median(times) for name, times in self.layers.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the file."""
        table = asdict(self)
        table["layers"] = [{"name": name, "times_ms": list(times)} for name, times in self.layers.items()]
        return {"format": FORMAT, **table}

    @classmethod
    def from_dict(cls, content: Any, where: str) -> LayerProfile:
        """Read what `to_dict` wrote.

        Raises
        ------
        EngineError
            When it is something else.
        """
        try:
            table = dict(content)
            if table.pop("format") != FORMAT:
                raise ValueError(f"the format is not {FORMAT}")
            table["layers"] = {one["name"]: tuple(map(float, one["times_ms"])) for one in table["layers"]}
            table["shapes"] = {name: tuple(map(int, shape)) for name, shape in table["shapes"].items()}
            return cls(**table)
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(
                f"The layer profile cannot be read: {error}", where=where, remedy="Profile the engine again."
            ) from error

    def save(self, directory: Path) -> Path:
        """Write the profile beside the plan and return the file."""
        path = directory / profile_name(self.plan)
        try:
            path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise storage_error(error, path, "write the layer profile") from error
        return path


def profile_name(plan: str) -> str:
    """Return the name of a plan's layer profile: ``rank0.engine`` → ``rank0.profile.json``."""
    return f"{plan.removesuffix('.engine')}.profile.json"


class Collector:
    """Takes layer times as they are reported, run after run."""

    def __init__(self) -> None:
        self._runs: list[dict[str, float]] = []

    def begin(self) -> None:
        """What is reported from now on belongs to a new run."""
        self._runs.append({})

    def add(self, layer: str, ms: float) -> None:
        """Take one time; a layer that is reported several times in a run (a loop's body) adds up."""
        run = self._runs[-1]
        run[layer] = run.get(layer, 0.0) + ms

    def times(self) -> dict[str, tuple[float, ...]]:
        """Return the times of each layer, in the order of the first run; a layer that a run skipped took none there."""
        names = dict.fromkeys(name for run in self._runs for name in run)
        return {name: tuple(run.get(name, 0.0) for run in self._runs) for name in names}


def layer_profiler(trt: Any, collector: Collector) -> Any:
    """Return an `IProfiler` that hands times to `collector`; keep it alive as long as its context."""

    class LayerTimes(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            collector.add(layer_name, ms)

    return LayerTimes()


def profile_layers(executor: TensorRTExecutor, *, runs: int = 20, warmup: int = 3) -> LayerProfile:
    """Run what is bound several times on a context of its own and return each layer's time.

    The cache is written as in any run: the same slots each time. Layers run one after another with an event between
    them, so their sum is more than an ordinary run takes, and far more than a graph's.

    Parameters
    ----------
    executor
        With everything bound.
    runs, warmup
        Timed runs, and runs before them.

    Raises
    ------
    EngineError
        For a number of runs below 1, or when TensorRT reports nothing.
    """
    if runs < 1:
        raise EngineError(f"{runs} runs cannot be profiled.", where="runs", remedy="Profile at least 1 run.")
    trt = tensorrt()
    step = executor.current_step()
    bound = executor.own_context(step)
    for _ in range(warmup):
        executor.run_alone(bound)
    collector = Collector()
    profiler = layer_profiler(trt, collector)
    context = bound.context
    context.profiler = profiler
    context.enqueue_emits_profile = False  # times are asked for after each run, which then is queued as a whole
    for _ in range(runs):
        collector.begin()
        executor.run_alone(bound)
        if not context.report_to_profiler():
            raise bound.fault("TensorRT reports no layer times.", "report_to_profiler")
    number, profile, _ = step.place
    return LayerProfile(
        backend=executor.backend,
        plan=executor.plans()[number].file.file,
        profile_index=profile,
        phase=step.phase,
        shapes=dict(step.shapes),
        runs=runs,
        gpu=executor.cuda.name(),
        layers=collector.times(),
    )
