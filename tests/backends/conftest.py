"""Models, checkpoints and engines, each made once a session: exporting a network takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.backends.models import RandomModel, built_executor, checkpoint_of, random_model
from trtbench_lab.backends.protocol import Executor

BACKENDS = ("onnxruntime", "torch")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Bench:
    """Makes models, checkpoints and executors on demand and keeps them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._models: dict[str, RandomModel] = {}
        self._executors: dict[tuple[str, str], Executor] = {}

    def model(self, family: str) -> RandomModel:
        if family not in self._models:
            self._models[family] = random_model(family, self.folder / family / "hf")
            checkpoint_of(self._models[family], self.checkpoint(family))
        return self._models[family]

    def checkpoint(self, family: str) -> Path:
        return self.folder / family / "checkpoint"

    def executor(self, family: str, backend: str) -> Executor:
        self.model(family)
        if (family, backend) not in self._executors:
            self._executors[family, backend] = built_executor(
                backend, self.checkpoint(family), self.folder / family / backend
            )
        executor = self._executors[family, backend]
        executor.guards_writes = True
        return executor


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(params=BACKENDS)
def executor_of(request: pytest.FixtureRequest, bench: Bench) -> Callable[[str], Executor]:
    """Return family → executor; every test that uses it runs once a backend. A new backend is a new parameter."""
    return lambda family: bench.executor(family, request.param)
