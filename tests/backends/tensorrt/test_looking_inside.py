"""Layer times, the inspector's JSON, intermediate tensors, and TensorRT's errors: what is seen of a run."""

from __future__ import annotations

import json

import pytest
import torch
from tests.backends.tensorrt.running import bound

from trtbench_lab.backends.tensorrt.debug_tensors import debug_run
from trtbench_lab.backends.tensorrt.error_recorder import ErrorLog
from trtbench_lab.backends.tensorrt.inspection import engine_information, inspector_name, save_inspection
from trtbench_lab.backends.tensorrt.layer_profile import Collector, LayerProfile, profile_layers, profile_name
from trtbench_lab.errors import EngineError, StorageError

# ---- layer times -------------------------------------------------------------------------------------------------


def test_layers_are_timed_on_a_context_of_its_own_and_kept(running, tmp_path):
    executor = running.load()
    bound(executor)
    for _ in range(3):
        executor.run()
    profile = profile_layers(executor, runs=4, warmup=2)
    assert executor.num_graphs == 1  # the run's own graph is untouched
    assert (profile.plan, profile.phase, profile.runs) == ("rank0.s12.engine", "decode", 4)
    assert profile.shapes["input_ids"] == (1, 1)
    assert all(len(times) == 4 for times in profile.layers.values())
    names = {layer["Name"] for layer in engine_information(executor.plans()[1].engine)["Layers"]}
    assert set(profile.layers) <= names
    path = profile.save(tmp_path)
    assert path.name == "rank0.s12.profile.json"
    content = json.loads(path.read_text())
    assert content["format"] == "trtbench-layer-profile-1"
    assert content["backend"] == "tensorrt"
    assert LayerProfile.from_dict(content, str(path)) == profile


def test_times_are_asked_for_after_each_run(running):
    executor = running.load()
    bound(executor)
    profile_layers(executor, runs=2, warmup=1)
    context = running.recorder.named("IExecutionContext.report_to_profiler")[0].handle
    names = [call.name.partition(".")[2] for call in running.recorder.calls if call.handle is context]
    order = [name for name in names if name in ("execute_async_v3", "profiler=", "report_to_profiler")]
    assert order == ["execute_async_v3", "profiler=", *["execute_async_v3", "report_to_profiler"] * 2]
    (emits,) = running.recorder.named("IExecutionContext.enqueue_emits_profile=")
    assert emits.arguments["value"] is False


def test_repeated_layers_add_up_and_skipped_ones_took_nothing():
    collector = Collector()
    for times in ([("a", 1.0), ("b", 2.0), ("a", 3.0)], [("a", 1.5)]):
        collector.begin()
        for name, ms in times:
            collector.add(name, ms)
    assert collector.times() == {"a": (4.0, 1.5), "b": (2.0, 0.0)}


def test_a_median_is_of_the_runs():
    profile = LayerProfile("tensorrt", "rank0.engine", 0, "decode", {}, 3, "gpu", {"a": (3.0, 1.0, 2.0)})
    assert profile.median_ms() == {"a": 2.0}
    assert profile_name("rank0.s12.engine") == "rank0.s12.profile.json"


@pytest.mark.parametrize("content", [None, [], {}, {"format": "trtbench-layer-profile-1"}, {"format": "other"}])
def test_damaged_profiles_are_told(content):
    with pytest.raises(EngineError, match="layer profile cannot be read"):
        LayerProfile.from_dict(content, "file")


def test_profiles_that_fail(running, tmp_path):
    executor = running.load()
    bound(executor)
    with pytest.raises(EngineError, match="0 runs cannot be profiled"):
        profile_layers(executor, runs=0)
    profile = profile_layers(executor, runs=1)
    with pytest.raises(StorageError):
        profile.save(tmp_path / "nowhere")
    running.recorder.behaviours["IExecutionContext.report_to_profiler"] = lambda context: False
    with pytest.raises(EngineError, match="reports no layer times"):
        profile_layers(executor, runs=1)


# ---- the inspector ------------------------------------------------------------------------------------------------


def test_the_inspectors_json_is_kept_for_every_plan(running, tmp_path):
    executor = running.load()
    files = save_inspection(executor, tmp_path)
    assert {path.name for path in files} == {"rank0.inspector.json", "rank0.s12.inspector.json"}
    content = json.loads(files[0].read_text())
    assert {"Layers", "I/O Tensors"} <= set(content)
    assert running.recorder.named("EngineInspector.execution_context=") == []
    assert inspector_name("rank3.decode.engine") == "rank3.decode.inspector.json"


def test_with_bound_tensors_sizes_are_told_as_they_are(running, tmp_path):
    executor = running.load()
    bound(executor)
    assert executor.is_bound
    save_inspection(executor, tmp_path)
    assert len(running.recorder.named("EngineInspector.execution_context=")) == 1


@pytest.mark.parametrize("answer", ["", "no JSON"])
def test_an_inspector_that_gives_no_json(running, answer):
    executor = running.load()
    running.recorder.behaviours["EngineInspector.get_engine_information"] = lambda inspector, format: answer
    with pytest.raises(EngineError, match="gives no JSON"):
        engine_information(executor.plans()[0].engine)


# ---- intermediate tensors -----------------------------------------------------------------------------------------


def test_debug_tensors_are_what_the_layers_give(running):
    built = running.workshop.engine(enable_debug_output=True, capacity_buckets=None)
    executor = running.load(built)
    tensors = bound(executor, length=3, capacity=24)
    tensors["input_ids"].copy_(torch.tensor([[4, 8, 15]]))
    found = debug_run(executor)
    assert set(found) == set(executor.layout.debug_tensors)
    hf = running.workshop.model().hf
    hidden = hf.model(torch.tensor([[4, 8, 15]]), output_hidden_states=True).hidden_states
    # Only the token whose logits are wanted reaches the last norm.
    assert torch.allclose(found["transformer.ln_f.output"], hidden[-1][:, :1], atol=1e-3)
    assert torch.allclose(found["transformer.layers.0.output"], hidden[1], atol=1e-3)
    # Attention and feed-forward block give what is added to the residual, behind their last product.
    layer = hf.model.layers[1]
    seen: dict[str, torch.Tensor] = {}
    layer.self_attn.register_forward_hook(lambda module, given, result: seen.update(attention=result[0]))
    layer.mlp.register_forward_hook(lambda module, given, result: seen.update(mlp=result))
    hf.model(torch.tensor([[4, 8, 15]]))
    for part in ("attention", "mlp"):
        assert torch.allclose(found[f"transformer.layers.1.{part}.output"], seen[part], atol=1e-3)
    only = debug_run(executor, ["transformer.ln_f.output"])
    assert list(only) == ["transformer.ln_f.output"]


def test_debug_tensors_that_are_not_there(running):
    with pytest.raises(EngineError, match="gives no intermediate tensors") as caught:
        debug_run(running.load())
    assert "enable_debug_output" in caught.value.remedy
    built = running.workshop.engine(enable_debug_output=True, capacity_buckets=None)
    executor = running.load(built)
    bound(executor, capacity=24)
    with pytest.raises(EngineError, match=r"does not give 'transformer\.ln_f'") as caught:
        debug_run(executor, ["transformer.ln_f"])
    assert "transformer.ln_f.output" in caught.value.remedy
    running.cuda.host_copy = None  # whatever goes wrong in a callback is told, and never raised into TensorRT
    with pytest.raises(EngineError, match="could not be read"):
        debug_run(executor)


# ---- errors -------------------------------------------------------------------------------------------------------


def test_an_error_carries_tensorrts_words_and_a_remedy_for_its_code():
    class Code:
        def __init__(self, name):
            self.name = name

    log = ErrorLog()
    log.add(Code("FAILED_ALLOCATION"), "Requested 8 GiB\nmore")
    log.add(Code("UNSPECIFIED_ERROR"), "and then this")
    fault = log.fault("The engine did not run.", where="rank0.engine")
    assert fault.what == "The engine did not run: Requested 8 GiB (FAILED_ALLOCATION)."
    assert "weight streaming" in fault.remedy
    assert fault.details.splitlines()[-1] == "UNSPECIFIED_ERROR: and then this"
    assert log.entries() == []
    assert log.fault("It failed.", where="x", remedy="Do this.").remedy == "Do this."
    for number in range(40):
        log.add(Code("INTERNAL_ERROR"), str(number))
    assert log.overflowed
    assert len(log.entries()) == 32
    assert "doctor --conformance" in log.fault("It failed.", where="x").remedy
