"""Engines that the backend's own builder made with the simulated TensorRT, and executors over host memory."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.backends.models import Described, RandomModel, checkpoint_of, random_model
from tests.backends.tensorrt.build_case import Built, build
from tests.backends.tensorrt.host_cuda import HostCuda
from tests.backends.tensorrt.recorder import Recorder
from tests.backends.tensorrt.simulated_runtime import add_runtime_behaviours
from tests.backends.tensorrt.simulation import add_behaviours

from trtbench_lab.backends.tensorrt.executor import TensorRTExecutor
from trtbench_lab.backends.tensorrt.loading import load_executor

LIMITS: dict[str, Any] = {
    "max_batch_size": 2,
    "max_input_len": 8,
    "max_seq_len": 24,
    "gather_context_logits": True,
    "capacity_buckets": [12],
}


@dataclass
class Workshop:
    """Builds each engine once a session."""

    folder: Path

    def __post_init__(self) -> None:
        self._models: dict[str, RandomModel] = {}
        self._built: dict[str, Built] = {}

    def model(self, family: str = "llama") -> RandomModel:
        """Return a random model whose checkpoint lies in ``{family}/checkpoint``."""
        if family not in self._models:
            place = self.folder / family
            self._models[family] = random_model(family, place / "hf")
            checkpoint_of(self._models[family], place / "checkpoint")
        return self._models[family]

    def engine(self, family: str = "llama", **options: Any) -> Built:
        """Return an engine with `LIMITS` and `options`; its folder must not be changed."""
        key = f"{family} {sorted(options.items())}"
        if key not in self._built:
            self.model(family)
            recorder = Recorder()
            add_behaviours(recorder)
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(sys.modules, "tensorrt", recorder.module)
                target = self.folder / f"engine{len(self._built)}"
                built = build(self.folder / family / "checkpoint", target, patch, **{**LIMITS, **options})
            assert not recorder.violations, recorder.violations
            self._built[key] = built
        return self._built[key]


class Running:
    """The simulated runtime of one test.

    Attributes
    ----------
    recorder, cuda
        What was called; the device.
    """

    def __init__(self, recorder: Recorder, workshop: Workshop):
        self.recorder, self.workshop = recorder, workshop
        self.cuda = HostCuda()
        add_runtime_behaviours(recorder, self.cuda)

    def load(self, built: Built | None = None, **options: Any) -> TensorRTExecutor:
        """Load rank 0 of an engine, by default one with two cache capacities."""
        built = built or self.workshop.engine()
        return load_executor(built.folder, 0, described(built), cuda=self.cuda, **options)


def described(built: Built) -> Described:
    """Return what a load reads of the folder's configuration."""
    return Described(built.config, built.options)


def bound(
    executor: TensorRTExecutor, *, batch: int = 1, length: int = 1, capacity: int = 12
) -> dict[str, torch.Tensor]:
    """Bind a full set of tensors and return them."""
    tensors: dict[str, torch.Tensor] = {}
    sizes: dict[str, int] = {"batch": batch, "length": length, "num_logits": 1, "capacity": capacity}
    for spec in executor.io:
        if spec.aliases is None:
            shape = [sizes[size] if isinstance(size, str) else size for size in spec.shape]
            tensors[spec.name] = torch.zeros(shape, dtype=getattr(torch, spec.dtype))
            executor.bind(spec.name, tensors[spec.name])
    return tensors
