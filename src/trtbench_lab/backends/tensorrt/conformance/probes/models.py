"""Whole tiny models, built and run by this backend as a user's are, against the torch backend in float32."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from .....errors import EngineError
from .....specs import BuildConfig, ModelConfig
from ...builder import TensorRTBuilder
from ...executor import TensorRTExecutor
from ...gpu import current_gpu
from ...inspection import save_inspection
from ...loading import load_executor
from ...resolution import resolve
from .log import PrintingReporter
from .sequences import logits_of, relative_difference
from .tiny import CAPACITY, Described, limits, reference_executor, tiny_checkpoint

Tried = tuple[float | None, dict[str, Any]]


class BuiltModel:
    """One tiny model with its engine.

    Parameters
    ----------
    folder
        Of the trial.
    model
        Arguments of `tiny_checkpoint`.
    options
        Fields of the build configuration.
    """

    def __init__(self, folder: Path, model: dict[str, Any], options: dict[str, Any]):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.config: ModelConfig = tiny_checkpoint(folder, **model)
        builder = TensorRTBuilder()
        # What failed earlier is tried all the same: verdicts stand against users' builds, not against trials.
        self.options: BuildConfig = resolve(self.config, limits(**options), current_gpu()).build_config
        self.engine_dir = folder / "engine"
        self.engine_dir.mkdir(exist_ok=True)
        started = time.monotonic()
        builder.build(folder / "checkpoint", 0, self.options, self.engine_dir, PrintingReporter())
        self.build_seconds = time.monotonic() - started

    def load(self, **options: Any) -> TensorRTExecutor:
        """Load the engine, and keep what the inspector says of it."""
        described = Described(self.config, self.options, self.folder / "checkpoint")
        executor = load_executor(self.engine_dir, 0, described, log=_say, **{"cuda_graphs": True, **options})
        save_inspection(executor, self.folder)
        return executor

    def reference(self) -> torch.Tensor:
        """Return the reference's logits."""
        return logits_of(reference_executor(self.folder, self.config))

    def facts(self) -> dict[str, Any]:
        """Return sizes and times."""
        plans = {path.name: path.stat().st_size for path in sorted(self.engine_dir.glob("*.engine"))}
        return {"build_s": round(self.build_seconds, 2), "plan_bytes": plans}


def try_model(
    folder: Path, *, options: dict[str, Any] | None = None, load: dict[str, Any] | None = None, **model: Any
) -> Tried:
    """Build, load and run a tiny model with every cache capacity that it has a plan for."""
    built = BuiltModel(folder, model, dict(options or {}))
    executor = built.load(**(load or {}))
    capacities = [size for size in executor.cache_capacities or (CAPACITY,) if size >= 40]
    reference = built.reference()
    differences = [relative_difference(logits_of(executor, capacity=size), reference) for size in capacities]
    facts = {**built.facts(), **executor.memory(), "graphs": executor.num_graphs, "notes": executor.notes}
    executor.close()
    return max(differences), facts


def try_refit(folder: Path, **model: Any) -> Tried:
    """Put the weights of a second model into the engine of a first; the result must compute the second."""
    built = BuiltModel(folder, model, {"refit": True})
    other = folder / "other"
    other.mkdir(exist_ok=True)
    config = tiny_checkpoint(other, seed=18, **model)
    target = other / "engine"
    target.mkdir(exist_ok=True)
    TensorRTBuilder().refit(built.engine_dir, other / "checkpoint", 0, built.options, target, PrintingReporter())
    executor = load_executor(target, 0, Described(config, built.options, other / "checkpoint"), log=_say)
    found = logits_of(executor)
    executor.close()
    expected = logits_of(reference_executor(other, config))
    facts = {**built.facts(), "from_the_first": relative_difference(built.reference(), expected)}
    return relative_difference(found, expected), facts


def try_cuda_graphs(folder: Path, **model: Any) -> Tried:
    """Run the same steps with and without graphs; both must fit the reference, and graphs must have been used."""
    built = BuiltModel(folder, model, {})
    reference = built.reference()
    plain = built.load(cuda_graphs=False)
    without = logits_of(plain)
    plain.close()
    executor = built.load()
    found = logits_of(executor)
    graphs, notes = executor.num_graphs, executor.notes
    executor.close()
    if graphs == 0:
        raise EngineError(f"No decode step was captured. {' '.join(notes)}".strip())
    facts = {**built.facts(), "graphs": graphs, "graph_against_plain": relative_difference(found, without)}
    return max(relative_difference(found, reference), relative_difference(without, reference)), facts


def _say(level: str, line: str) -> None:
    print(f"[{level}] {line}", flush=True)  # noqa: T201 - the log of the trial
