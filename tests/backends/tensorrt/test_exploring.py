"""The explorer over a loaded TensorRT engine, the runtime simulated: which calls it makes, and how plans are chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtbench_lab.explore import explore, profile
from trtbench_lab.explore.recording.workload import Step
from trtbench_lab.explore.sources import plan_of


def test_a_live_engine_is_inspected(running) -> None:
    executor = running.load()
    result = explore(executor)
    assert result.backend == "tensorrt"
    assert result.layers
    assert result.total_ms is None
    assert running.recorder.named("EngineInspector.get_engine_information")


def test_layers_of_a_live_engine_are_timed(running, tmp_path: Path) -> None:
    executor = running.load()
    result = profile(executor, input_length=8, num_runs=3, warm_up=1, trace=tmp_path / "profile.json")
    timed = [layer for layer in result.layers if layer.times_ms]
    assert timed
    assert all(len(layer.times_ms) == 3 for layer in timed)
    assert len(result.run_ms) == 3
    assert (result.phase, result.input_length) == ("decode", 8)
    again = explore(tmp_path / "profile.json")
    assert {layer.name for layer in again.layers} == {layer.name for layer in timed}


@pytest.mark.parametrize(
    ("names", "step", "chosen"),
    [
        (["rank0.inspector.json"], Step("decode", 1, 64), "rank0.inspector.json"),
        (["rank0.inspector.json", "rank0.s128.inspector.json"], Step("decode", 1, 64), "rank0.s128.inspector.json"),
        (["rank0.inspector.json", "rank0.s128.inspector.json"], Step("decode", 1, 200), "rank0.inspector.json"),
        (["rank0.inspector.json", "rank0.decode.inspector.json"], Step("decode", 1, 9), "rank0.decode.inspector.json"),
        (["rank0.inspector.json", "rank0.decode.inspector.json"], Step("prompt", 1, 9), "rank0.inspector.json"),
        (["rank0.s16.inspector.json"], Step("prompt", 1, 64), None),
        ([], Step("decode", 1, 64), None),
    ],
)
def test_the_plan_that_runs_the_step(names: list[str], step: Step, chosen: str | None) -> None:
    found = plan_of([Path(name) for name in names], step)
    assert (found.name if found else None) == chosen
