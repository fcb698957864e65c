"""Both embedded backends record what they run; layers, times, modules and sizes are those of the engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from trtbench_lab.checkpoint.safetensors_file import SafetensorsFile
from trtbench_lab.engine import Engine
from trtbench_lab.errors import EngineError, EngineMismatchError, RequestError
from trtbench_lab.explore import compare_explorations, explore, profile
from trtbench_lab.explore.recording.torch import marked_modules
from trtbench_lab.explore.recording.workload import Step, bind_step
from trtbench_lab.results import Result

LAYERS = 4  # of the demo model


@pytest.fixture(scope="module", params=["onnxruntime", "torch"])
def recorded(request: pytest.FixtureRequest, engines: dict[str, Path], tmp_path_factory: pytest.TempPathFactory):
    trace = tmp_path_factory.mktemp("trace") / "trace.json"
    result = profile(engines[request.param], num_runs=3, warm_up=1, input_length=16, trace=trace, name="first")
    return result, trace


def test_every_run_of_every_layer_is_timed(recorded) -> None:
    result, _ = recorded
    assert {len(layer.times_ms) for layer in result.layers} == {3}
    assert all(time >= 0 for layer in result.layers for time in layer.times_ms)
    assert len(result.run_ms) == 3
    assert result.total_ms == pytest.approx(sum(layer.time_ms for layer in result.layers))
    assert (result.phase, result.batch_size, result.input_length) == ("decode", 1, 16)


def test_time_is_attributed_to_modules(recorded) -> None:
    result, _ = recorded
    assert result.metrics["attributed_percent"] > 90
    groups = {group.name: group for group in result.by_group()}
    for part in ("attention.qkv", "attention.dense", "mlp.fc", "mlp.gate", "mlp.proj"):
        assert groups[f"transformer.layers.*.{part}"].layers >= LAYERS
        assert groups[f"transformer.layers.*.{part}"].time_ms > 0
    products = [layer for layer in result.layers if layer.kind == "matmul"]
    assert len(products) == 5 * LAYERS + 1
    assert sum(group.layers for group in result.by_kind()) == len(result.layers)


def test_weights_and_work_are_those_of_the_model(recorded, engines: dict[str, Path]) -> None:
    result, _ = recorded
    stored = SafetensorsFile(engines["torch"] / "rank0.engine").locations
    fc = stored["transformer.layers.0.mlp.fc.weight"]
    layer = next(one for one in result.layers if one.module == "transformer.layers.0.mlp.fc" and one.kind == "matmul")
    assert layer.weights_bytes == fc.nbytes
    assert layer.weights_dtype == layer.precision == "float32"
    assert layer.flops == 2 * (fc.nbytes // 4)  # one token
    assert layer.moved_bytes > layer.weights_bytes
    head = next(one for one in result.layers if one.module == "lm_head" and one.kind == "matmul")
    assert head.weights_bytes == stored["lm_head.weight"].nbytes


def test_ceilings_are_measured(recorded) -> None:
    result, _ = recorded
    assert result.ceilings.read_bytes_per_s > 1e8
    assert result.ceilings.flops_per_s > 1e8
    assert "measured on CPU" in result.ceilings.source


def test_result_is_kept_and_shown(recorded) -> None:
    result, _ = recorded
    assert Result.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    for text in (repr(result), result._repr_html_()):
        assert f"backend {result.backend}" in text
        assert "transformer.layers.*.mlp.fc" in text
    assert len(result.all_layers().rows) == len(result.layers)


def test_saved_trace_is_read_again(recorded) -> None:
    result, trace = recorded
    again = explore(trace)
    assert again.backend == result.backend
    times = sum(layer.time_ms for layer in again.layers if layer.module == "lm_head")
    assert times == pytest.approx(sum(one.time_ms for one in result.layers if one.module == "lm_head"), rel=0.9)
    assert {one.module for one in result.layers if one.kind == "matmul"} <= {one.module for one in again.layers}


def test_prompt_phase_counts_its_tokens(engines: dict[str, Path]) -> None:
    result = profile(engines["onnxruntime"], phase_name="prompt", input_length=24, batch_size=2, num_runs=1, warm_up=0)
    assert (result.phase, result.batch_size) == ("prompt", 2)
    fc = next(one for one in result.layers if one.name == "transformer.layers.0.mlp.fc/MatMul")
    assert fc.inputs[0].shape[:2] == (2, 24)
    assert fc.flops == 2 * 2 * 24 * (fc.weights_bytes // 4)


def test_engines_are_aligned_by_module(engines: dict[str, Path]) -> None:
    first = profile(engines["onnxruntime"], num_runs=1, warm_up=0, input_length=8)
    second = profile(engines["torch"], num_runs=1, warm_up=0, input_length=8)
    pair = compare_explorations(first, second)
    rows = {row.where: row for row in pair.modules}
    for number in range(LAYERS):
        row = rows[f"transformer.layers.{number}.mlp.fc"]
        assert row.first
        assert row.second
    aligned = [row for row in pair.layers if row.where == "lm_head"]
    assert (aligned[0].first[0], aligned[0].second[0]) == ("lm_head/MatMul", "lm_head/linear")
    # Nothing is lost and nothing counted twice.
    assert sorted(name for row in pair.layers for name in row.first) == sorted(one.name for one in first.layers)
    assert sorted(name for row in pair.layers for name in row.second) == sorted(one.name for one in second.layers)
    assert sum(row.first_ms or 0.0 for row in pair.modules) == pytest.approx(first.total_ms)
    assert any("two backends" in note for note in pair.notes)
    assert Result.from_dict(json.loads(json.dumps(pair.to_dict()))) == pair
    assert "onnxruntime" in repr(pair)
    assert "torch" in repr(pair)


def test_without_running_layers_are_those_built(engines: dict[str, Path]) -> None:
    graph = explore(engines["onnxruntime"])
    modules = explore(engines["torch"])
    assert graph.total_ms is modules.total_ms is None
    assert graph.run_ms == ()
    both = [sum(one.weights_bytes or 0 for one in side.layers if one.kind == "matmul") for side in (graph, modules)]
    assert both[0] == both[1]
    assert "attention" in {one.kind for one in modules.layers}
    network = explore(engines["onnxruntime"] / "network.onnx")
    assert {one.module for one in network.layers if one.kind == "matmul"} == {
        one.module for one in graph.layers if one.kind == "matmul"
    }


def test_live_executors(engines: dict[str, Path]) -> None:
    for backend, folder in engines.items():
        executor = Engine.from_dir(folder).executor()
        assert explore(executor).backend == backend
        if backend == "torch":
            timed = profile(executor, num_runs=1, warm_up=0, input_length=8)
            assert timed.total_ms > 0
        else:
            with pytest.raises(EngineError, match="profiler on"):
                profile(executor)
        executor.close()


def test_marks_leave_nothing_behind(engines: dict[str, Path]) -> None:
    executor = Engine.from_dir(engines["torch"]).executor()
    decoder = executor.modules()
    tensors = bind_step(executor, Step("decode", 1, 8))
    with marked_modules(decoder):
        executor.run()
    marked = tensors["logits"].clone()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in decoder.modules())
    executor.run()
    assert torch.equal(marked, tensors["logits"])
    executor.close()


def test_requests_outside_of_the_engine(engines: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="at most 2 rows"):
        profile(engines["torch"], batch_size=3)
    with pytest.raises(RequestError, match="reaches 127 tokens") as caught:
        profile(engines["torch"], input_length=128)
    assert "at most 127" in str(caught.value.remedy)
    with pytest.raises(EngineMismatchError, match="no rank 1"):
        explore(engines["torch"], rank=1)
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(EngineError, match="Only an engine can be run"):
        profile(tmp_path / "x.json")
    with pytest.raises(EngineError, match="one file of an engine folder"):
        explore(engines["torch"] / "rank0.engine")
    with pytest.raises(EngineError, match=r"no config\.json"):
        explore(tmp_path)
