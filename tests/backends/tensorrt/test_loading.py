"""Engine folders that do not fit are refused before anything runs, with the sentence that helps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.backends.models import Described, Driver
from tests.backends.tensorrt.running import bound, described
from tests.backends.tensorrt.runtime_scenarios import reader_without_cuda

from trtbench_lab.backends.registry import backend
from trtbench_lab.backends.tensorrt import plan_file
from trtbench_lab.backends.tensorrt.device_memory import MARGIN_BYTES
from trtbench_lab.backends.tensorrt.loading import load_executor
from trtbench_lab.backends.tensorrt.plan_layout import PlanFile, PlanLayout, layout_name, read_layout, write_layout
from trtbench_lab.backends.tensorrt.weight_streaming import set_budget
from trtbench_lab.errors import EngineError, EngineMismatchError
from trtbench_lab.specs import Mapping

TOLERANCE = 1e-3  # see test_executor


def decodes_like_the_reference(running: Any, executor: Any, capacity: int = 24) -> bool:
    tokens = torch.randint(0, 97, (2, 7), generator=torch.Generator().manual_seed(2))
    driver = Driver(executor, 2, capacity)
    logits = torch.cat([driver.step(tokens[:, :5]), driver.step(tokens[:, 5:6]), driver.step(tokens[:, 6:])], 1)
    return torch.allclose(logits, running.workshop.model().logits(tokens), atol=TOLERANCE)


@pytest.fixture
def copied(running, tmp_path) -> Path:
    """An engine folder of the test's own."""
    shutil.copytree(running.workshop.engine().folder, tmp_path / "engine")
    return tmp_path / "engine"


def load(running: Any, folder: Path, **options: Any) -> Any:
    return load_executor(folder, 0, described(running.workshop.engine()), cuda=running.cuda, **options)


# ---- folders ---------------------------------------------------------------------------------------------------


def test_the_builder_loads_with_options(running, monkeypatch):
    built = running.workshop.engine()
    executor = backend("tensorrt").load(built.folder, 0, described(built), cuda=running.cuda, capacities=[12])
    assert executor.cache_capacities == (12,)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / layout_name(0)).unlink(), "names the engine's plans is missing"),
        (lambda folder: (folder / layout_name(0)).write_text("{"), "cannot be read"),
        (lambda folder: (folder / layout_name(0)).write_text("[]"), "cannot be read"),
        (lambda folder: (folder / layout_name(0)).write_text(" " * (2 << 20)), "cannot be read"),
        (lambda folder: (folder / "rank0.s12.engine").unlink(), "The plan 'rank0.s12.engine' is missing"),
        (lambda folder: (folder / "rank0.engine").write_bytes(b""), "The plan is empty"),
        (lambda folder: (folder / "rank0.engine").write_bytes(b"noise"), "could not load the plan: Serialization"),
    ],
)
def test_damaged_folders(running, copied, damage, sentence):
    damage(copied)
    with pytest.raises(EngineError, match=sentence) as caught:
        load(running, copied)
    assert "uild" in caught.value.remedy


@pytest.mark.parametrize(
    "change",
    [
        {"form": "odd"},
        {"plans": []},
        {"plans": [{"file": "../rank0.engine", "capacity": 12, "phases": ["decode"]}]},
        {"plans": [{"file": "rank0.engine", "capacity": None, "phases": ["decode"]}]},
        {"plans": [{"file": "rank0.engine", "capacity": 0, "phases": ["decode"]}]},
        {"plans": [{"file": "rank0.engine", "capacity": 12, "phases": ["dream"]}]},
        {"plans": [{"file": "rank0.engine", "capacity": 12, "phases": []}]},
        {"format": "trtbench-tensorrt-layout-0"},
        {"max_positions": "many"},
        {"surprise": 1},
    ],
)
def test_layouts_that_cannot_be(copied, change):
    path = copied / layout_name(0)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(EngineError, match="cannot be read"):
        read_layout(copied, 0)


def test_a_layout_survives_being_written(tmp_path):
    (tmp_path / "rank1.engine").write_bytes(b"x")
    plans = (PlanFile("rank1.engine", None, ("prompt", "decode")),)
    layout = PlanLayout("paged", plans, "float16", "int8", 128, tokens_per_block=64, debug_tensors=("a",))
    write_layout(tmp_path, 1, layout)
    assert read_layout(tmp_path, 1) == layout
    assert layout.capacities == ()


@pytest.mark.parametrize(
    ("method", "answer", "sentence"),
    [
        ("ICudaEngine.get_aliased_input_tensor", lambda engine, name: None, "shares its memory with None"),
        ("ICudaEngine.num_optimization_profiles", lambda engine: 1, "has 1 optimization profiles; "),
        ("ICudaEngine.num_io_tensors", lambda engine: 3, "lacks a tensor of the model"),
        ("ICudaEngine.get_tensor_dtype", "HALF", "is HALF; the model has"),
        ("ICudaEngine.get_tensor_location", "HOST", "on the host"),
        ("ICudaEngine.get_tensor_mode", "NONE", "is no input"),
        ("ICudaEngine.get_tensor_shape", (1, 2), "has shape"),
    ],
)
def test_a_plan_of_another_model_is_refused(running, method, answer, sentence):
    from tests.backends.tensorrt.signatures import core

    kinds = {"HALF": "DataType", "HOST": "TensorLocation", "NONE": "TensorIOMode"}
    if isinstance(answer, str):
        value = getattr(getattr(core(), kinds[answer]), answer)
        behaviour = lambda engine, name: value  # noqa: E731
    elif isinstance(answer, tuple):
        behaviour = lambda engine, name: core().Dims(answer)  # noqa: E731
    else:
        behaviour = answer
    running.recorder.behaviours[method] = behaviour
    with pytest.raises(EngineMismatchError, match=sentence):
        running.load()


def test_a_cache_of_another_capacity_than_written_down(running, copied):
    path = copied / layout_name(0)
    path.write_text(path.read_text().replace('"capacity": 12', '"capacity": 13'))
    with pytest.raises(EngineMismatchError, match="caches hold 12 tokens a row; 13 were written down"):
        load(running, copied)


def test_a_machine_without_a_driver_is_told(running):
    def fail(*_, **__):
        raise TypeError("pybind11::init(): factory function returned nullptr")

    running.recorder.behaviours["Runtime"] = fail
    with pytest.raises(EngineError, match="could not make a runtime: CUDA does not start here") as caught:
        running.load()
    assert "nvidia-smi" in caught.value.remedy


def test_devices_that_are_none():
    from trtbench_lab.backends.tensorrt.cuda import cuda_device

    with pytest.raises(EngineError, match="no device 'gpu0'"):
        cuda_device("gpu0")
    with pytest.raises(EngineError, match="not on 'cpu'"):
        cuda_device("cpu")
    if not torch.cuda.is_available():
        with pytest.raises(EngineError, match="No GPU can be used here"):
            cuda_device(None)


# ---- plans -----------------------------------------------------------------------------------------------------


def test_a_plan_is_mapped_and_not_copied(running, monkeypatch):
    seen = []
    deserialize = running.recorder.behaviours["Runtime.deserialize_cuda_engine"]

    def looking(runtime, serialized_engine=None, stream_reader_v2=None):
        seen.append(serialized_engine)
        return deserialize(runtime, serialized_engine, stream_reader_v2)

    running.recorder.behaviours["Runtime.deserialize_cuda_engine"] = looking
    running.load()
    assert [type(each) for each in seen] == [memoryview, memoryview]
    with pytest.raises(ValueError, match="released"):  # and let go of
        seen[0].tobytes()


@pytest.mark.parametrize("how", ["asked for", "where nothing can be mapped"])
def test_a_plan_is_streamed(running, monkeypatch, how):
    monkeypatch.setattr(plan_file, "stream_reader", reader_without_cuda)
    if how != "asked for":

        def fail(*_, **__):
            raise OSError("No such device")

        monkeypatch.setattr(plan_file.mmap, "mmap", fail)
    executor = running.load(**({"reader": "stream"} if how == "asked for" else {}))
    calls = running.recorder.named("Runtime.deserialize_cuda_engine")
    assert all(
        "stream_reader_v2" in call.arguments or call.arguments.get("serialized_engine") is None for call in calls
    )
    assert decodes_like_the_reference(running, executor)


def test_a_source_reads_pieces_and_seeks(tmp_path):
    import os

    (tmp_path / "plan").write_bytes(bytes(range(10)))
    source = plan_file.PlanSource(tmp_path / "plan")
    assert source.read(4) == bytes(range(4))
    assert source.seek(-2, os.SEEK_END)
    assert source.read(100) == bytes([8, 9])
    assert source.read(1) == b""
    assert not source.seek(-1, os.SEEK_SET)
    source.close()
    assert source.read(1) == b""
    assert not source.seek(0, os.SEEK_SET)


# ---- memory ----------------------------------------------------------------------------------------------------


def test_memory_is_told_before_it_is_taken(running):
    lines = []

    def log(level: str, line: str) -> None:
        lines.append((level, line, len(running.cuda.allocated)))

    running.load(log=log)
    ((level, line, allocated),) = [each for each in lines if "Device memory" in each[1]]
    assert (level, allocated) == ("info", 0)
    assert "weights" in line
    assert "activations of all contexts together" in line


def test_activations_that_do_not_fit_are_refused(running, monkeypatch):
    files = sum(path.stat().st_size for path in running.workshop.engine().folder.glob("*.engine"))
    free = iter([files + MARGIN_BYTES] * 2 + [100])
    monkeypatch.setattr(running.cuda, "free_bytes", lambda: next(free))
    with pytest.raises(EngineError, match=r"needs 12.00 KiB for activations .* 100 B are free on a simulated GPU"):
        running.load()
    assert running.cuda.allocated == []


def test_weights_that_do_not_fit_are_refused_before_the_plan_is_read(running):
    running.cuda.free = MARGIN_BYTES
    with pytest.raises(EngineError, match=r"weights take about .* are free on a simulated GPU"):
        running.load()
    assert running.recorder.named("Runtime.deserialize_cuda_engine") == []


def test_capacities_whose_weights_do_not_fit_beside_the_largest_are_left_out(running):
    largest = (running.workshop.engine().folder / "rank0.engine").stat().st_size
    running.cuda.free = largest + MARGIN_BYTES
    lines = []
    executor = running.load(log=lambda level, line: lines.append((level, line)))
    assert executor.cache_capacities == (24,)
    assert ("warning", "The plan with a cache capacity of 12 is left out: memory for its weights lacks.") in lines
    assert decodes_like_the_reference(running, executor)


def test_capacities_can_be_chosen(running):
    assert running.load(capacities=[12]).cache_capacities == (12,)
    with pytest.raises(EngineError, match="no plan with a cache capacity of 13") as caught:
        running.load(capacities=[12, 13])
    assert "12, 24" in caught.value.remedy


# ---- weights from elsewhere --------------------------------------------------------------------------------------


def test_a_stripped_plan_is_refitted_from_the_checkpoint(running):
    built = running.workshop.engine(strip_plan=True)
    where = Described(built.config, built.options)
    checkpoint = running.workshop.folder / "llama" / "checkpoint"
    object.__setattr__(where, "checkpoint", {"directory": str(checkpoint)})
    executor = load_executor(built.folder, 0, where, cuda=running.cuda)
    assert running.recorder.named("OnnxParserRefitter.load_initializer")
    assert running.recorder.named("Refitter.release_refit_resources")
    assert decodes_like_the_reference(running, executor)
    object.__setattr__(where, "checkpoint", {"directory": "/nowhere"})
    with pytest.raises(EngineError, match="the checkpoint they come from is not at '/nowhere'"):
        load_executor(built.folder, 0, where, cuda=running.cuda)


def test_a_stripped_plan_is_refitted_from_the_network_beside_it(running):
    running.recorder.absent.add("Refitter.release_refit_resources")  # as before 11.4
    built = running.workshop.engine(strip_plan=True, visualize=True, capacity_buckets=None)
    executor = running.load(built)
    (call,) = running.recorder.named("OnnxParserRefitter.refit_from_file")
    assert call.arguments["model"] == str(built.folder / "network.onnx")
    assert decodes_like_the_reference(running, executor)


@pytest.mark.parametrize(
    ("method", "answer", "sentence"),
    [
        ("Refitter.get_missing_weights", ["lm_head.weight"], "1 weights of the plan are not in its source"),
        ("Refitter.refit_cuda_engine", False, "could not put the weights in"),
        ("ICudaEngine.refittable", False, "cannot take other weights"),
        ("OnnxParserRefitter.refit_from_file", False, "could not read the weights from the network"),
    ],
)
def test_refits_that_fail(running, method, answer, sentence):
    built = running.workshop.engine(strip_plan=True, visualize=True, capacity_buckets=None)
    running.recorder.behaviours[method] = lambda *_, **__: answer
    with pytest.raises(EngineError, match=sentence):
        running.load(built)


# ---- weight streaming --------------------------------------------------------------------------------------------


def test_streamed_weights_stay_on_the_host_and_rule_out_graphs(running):
    built = running.workshop.engine(weight_streaming=True, capacity_buckets=None)
    executor = running.load(built, weight_streaming_budget=1000)
    memory = executor.memory()
    assert memory["weights_bytes"] == 1000
    assert memory["streamed_weights_bytes"] > 0
    assert memory["scratch_bytes"] == 1024
    assert not executor.uses_graphs
    assert decodes_like_the_reference(running, executor)
    assert executor.num_graphs == 0
    set_budget(executor, None)  # all on the device again
    assert executor.memory()["streamed_weights_bytes"] == 0
    bound(executor, capacity=24)
    for _ in range(3):
        executor.run()
    assert executor.num_graphs == 1
    set_budget(executor, "auto")
    assert executor.num_graphs == 0
    assert len(running.cuda.allocated) == 3


def test_the_budget_is_shared_between_plans_and_set_before_contexts(running):
    built = running.workshop.engine(weight_streaming=True)
    executor = running.load(built, weight_streaming_budget=2000)
    bound(executor)
    executor.run()
    names = [call.name for call in running.recorder.calls]
    last = max(i for i, name in enumerate(names) if name == "ICudaEngine.weight_streaming_budget_v2=")
    assert last < names.index("ICudaEngine.create_execution_context")
    assert 1998 <= executor.memory()["weights_bytes"] <= 2000


def test_a_share_of_the_weights_is_kept_of_every_plan(running):
    built = running.workshop.engine(weight_streaming=True)
    executor = running.load(built, weight_streaming_budget="25%")
    kept = [call.arguments for call in running.recorder.named("ICudaEngine.weight_streaming_budget_v2=")]
    sizes = [int(plan.engine.streamable_weights_size) for plan in executor.plans()]
    assert [list(values.values())[-1] for values in kept] == [size // 4 for size in sizes]
    assert len(sizes) > 1
    for share, streamed in (("100%", 0), ("0%", sum(sizes))):
        set_budget(executor, share)
        assert executor.memory()["streamed_weights_bytes"] == streamed


NO_BUDGET = "is no weight-streaming"


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        (-1, "-1 bytes is not possible"),
        ("half", NO_BUDGET),
        ("101%", NO_BUDGET),
        ("-1%", NO_BUDGET),
        ("nan%", NO_BUDGET),
    ],
)
def test_budgets_that_cannot_be(running, budget, sentence):
    built = running.workshop.engine(weight_streaming=True, capacity_buckets=None)
    with pytest.raises(EngineError, match=sentence):
        running.load(built, weight_streaming_budget=budget)


def test_a_budget_for_an_engine_that_was_not_built_for_it(running):
    with pytest.raises(EngineError, match="not built for weight streaming"):
        running.load(weight_streaming_budget=0)
    with pytest.raises(EngineError, match="not built for weight streaming"):
        set_budget(running.load(), None)


# ---- ranks -------------------------------------------------------------------------------------------------------


def test_the_ranks_are_checked_before_any_plan_is_read(running):
    built = running.workshop.engine()
    where = Described(built.config.replace(mapping=Mapping(world_size=2, tp_size=2)), built.options)
    with pytest.raises(EngineError, match="split over 2 tensor-parallel ranks"):
        load_executor(built.folder, 0, where, cuda=running.cuda)
    assert running.recorder.named("Runtime") == []
