"""TensorRT for tests without TensorRT: a recorder made from the real bindings; see `recorder`."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# NVIDIA publishes the bindings for Linux only; the recorder is made for the wheel of x86-64.
collect_ignore_glob = [] if (platform.system(), platform.machine()) == ("Linux", "x86_64") else ["test_*.py"]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Stand a fresh recorder in for ``tensorrt``, with the behaviours of a TensorRT that works; fails on violations."""
    from tests.backends.tensorrt.recorder import Recorder
    from tests.backends.tensorrt.simulation import add_behaviours

    made = Recorder()
    add_behaviours(made)
    monkeypatch.setitem(sys.modules, "tensorrt", made.module)
    yield made
    assert not made.violations, made.violations


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Build engines with the simulated TensorRT, each once a session."""
    from tests.backends.tensorrt.running import Workshop

    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture
def running(workshop: object, recorder: object) -> object:
    """Load and run such engines; see `running.Running`."""
    from tests.backends.tensorrt.running import Running

    return Running(recorder, workshop)


@pytest.fixture
def real_tensorrt(monkeypatch: pytest.MonkeyPatch) -> object:
    """Let ``import tensorrt`` and ``import tensorrt.plugin`` give the real bindings, over stub libraries."""
    from tests.backends.tensorrt.stubs import bindings

    module = bindings()
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    import tensorrt_bindings.plugin as plugin

    monkeypatch.setitem(sys.modules, "tensorrt.plugin", plugin)
    monkeypatch.setattr(module, "plugin", plugin, raising=False)
    return module


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> object:
    """Give a builder over the simulated TensorRT that works in a child process too."""
    from tests.backends.tensorrt.simulated_builder import SimulatedBuilder

    from trtbench_lab.backends.tensorrt import loading

    monkeypatch.setitem(sys.modules, "tensorrt", None)  # so that what the builder sets is taken away afterwards
    monkeypatch.setattr(loading, "cuda_device", loading.cuda_device)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    return SimulatedBuilder()
