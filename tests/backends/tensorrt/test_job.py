"""A whole build in its child process, over a simulated TensorRT: folder, phases, log, memory, cancel."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from tests.backends.tensorrt import build_case
from tests.backends.tensorrt.simulated_builder import SLOW, SimulatedBuilder

from trtbench_lab.backends.tensorrt import builder as builder_module
from trtbench_lab.engine import build, start_build
from trtbench_lab.engine.verify import check_fit
from trtbench_lab.errors import BuildCancelled, EngineMismatchError
from trtbench_lab.specs import BuildConfig

OPTIONS = BuildConfig(max_batch_size=2, max_input_len=8, max_seq_len=16, gather_context_logits=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_case.checkpoint(tmp_path_factory.mktemp("job"), "gpt2")


def test_a_build_makes_a_whole_engine_folder(
    checkpoint: Path, builder: SimulatedBuilder, tmp_path: Path, monkeypatch: Any
):
    engine = build(checkpoint, OPTIONS, tmp_path / "engine", builder=builder, use_cache=False)
    names = {path.name for path in engine.directory.iterdir()}
    assert names == {
        "config.json", "build.log", "model.cache", "rank0.engine", "rank0.layout.json", "rank0.inspector.json",
    }  # fmt: skip
    assert engine.config.backend == "simulated"
    report = engine.config.build_report
    phases = [phase["name"] for phase in report["phases"]]
    for name in ("export network", "parse network", "build rank0.engine", "TensorRT: Timing kernels", "verify engine"):
        assert name in phases
    assert report["peak_bytes"] > 0
    log = (engine.directory / "build.log").read_text()
    assert "bytes are read where the checkpoint has them" in log
    assert "profile 0: prompt" in log
    engine.executor(0).close()
    # An engine of another GPU is refused, unless it was built for that one too.
    check_fit(engine.config, builder, "engine")
    monkeypatch.setattr(builder_module, "machine_key", lambda: "x86_64 cuda sm80 NVIDIA A100")
    with pytest.raises(EngineMismatchError, match="another kind of machine"):
        check_fit(engine.config, builder, "engine")
    monkeypatch.setattr(SimulatedBuilder, "runs_here", lambda self, built_on, options: True)
    check_fit(engine.config, builder, "engine")


def test_a_cancel_stops_tensorrt_at_its_next_step(
    checkpoint: Path, builder: SimulatedBuilder, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv(SLOW, "3000")  # a minute
    job = start_build(checkpoint, OPTIONS, tmp_path / "engine", builder=builder, use_cache=False)
    deadline = time.monotonic() + 60
    while not job.phase.startswith("TensorRT: Timing kernels") and time.monotonic() < deadline and not job.done:
        time.sleep(0.05)
    assert job.phase.startswith("TensorRT: Timing kernels")
    started = time.monotonic()
    job.cancel()
    with pytest.raises(BuildCancelled):
        job.wait(30)
    assert time.monotonic() - started < 20
    assert not (tmp_path / "engine").exists()
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]
