"""Models, checkpoints and engines, each made once a session: exporting a network takes seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from tests.backends.models import PADDED, Described, RandomModel, built_executor, checkpoint_of, random_model

from trtbench_lab.backends.protocol import Executor
from trtbench_lab.backends.registry import backend as backend_of
from trtbench_lab.checkpoint import open_checkpoint
from trtbench_lab.network import export
from trtbench_lab.specs import ModelConfig

BACKENDS = ("onnxruntime", "torch", pytest.param("torch on cuda", marks=pytest.mark.gpu))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def backend_and_device(parameter: str) -> tuple[str, str]:
    """Split a parameter of `BACKENDS`."""
    name, _, device = parameter.partition(" on ")
    return name, device or "cpu"


_traces: dict[tuple[object, ...], ir.Model] = {}


@pytest.fixture(autouse=True)
def _trace_each_network_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give tests that build the same network a copy of the first trace, which takes 3 s; nothing else is shortened."""
    if "is_printed" in request.node.name:
        return
    trace = export._trace

    def traced(config: ModelConfig, *others: object) -> ir.Model:
        key = (json.dumps(config.to_dict(), sort_keys=True), *map(str, others))
        if key not in _traces:
            _traces[key] = trace(config, *others)
        return _traces[key].clone()

    monkeypatch.setattr(export, "_trace", traced)


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
                *backend_and_device(backend), self.checkpoint(family), self.folder / family / backend
            )
        executor = self._executors[family, backend]
        executor.guards_writes = True
        return executor

    def fresh_executor(self, like: Executor, family: str) -> Executor:
        """Load the engine of `like` once more."""
        folder = next(
            self.folder / family / backend
            for (made, backend), executor in self._executors.items()
            if made == family and executor is like
        )
        builder = backend_of(like.backend)
        config = open_checkpoint(self.checkpoint(family)).config
        resolved = builder.resolve(config, PADDED).build_config
        return builder.load(folder, 0, Described(config, resolved), device=str(like.device))


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(params=BACKENDS)
def executor_of(request: pytest.FixtureRequest, bench: Bench) -> Callable[[str], Executor]:
    """Return family → executor; every test that uses it runs once a backend. A new backend is a new parameter."""
    return lambda family: bench.executor(family, request.param)
