"""The probes themselves, over the simulated TensorRT: what is right passes, what is wrong does not.

These are runs of ONNX Runtime over host memory. They say that the probes measure what they should, and nothing about
TensorRT.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from tests.backends.tensorrt.running import Running
from tests.backends.tensorrt.simulated_runtime import RuntimeSide

from trtbench_lab.backends.tensorrt import builder, loading
from trtbench_lab.backends.tensorrt.builder import TensorRTBuilder
from trtbench_lab.backends.tensorrt.conformance.features import BOUNDS, FEATURES, MODEL_ALGORITHMS
from trtbench_lab.backends.tensorrt.conformance.probes.inside import try_looking_inside
from trtbench_lab.backends.tensorrt.conformance.probes.models import try_cuda_graphs, try_model, try_refit
from trtbench_lab.backends.tensorrt.conformance.probes.sequences import logits_of
from trtbench_lab.backends.tensorrt.conformance.probes.tiny import reference_executor, tiny_checkpoint
from trtbench_lab.errors import EngineError

FLOAT32 = BOUNDS["float32"]


@pytest.fixture
def simulated(recorder: Any, workshop: Any, monkeypatch: pytest.MonkeyPatch) -> Running:
    running = Running(recorder, workshop)
    monkeypatch.setattr(loading, "cuda_device", lambda name: running.cuda)
    return running


@pytest.mark.parametrize(
    "arguments",
    [
        {"sharing": "mqa"},
        {"options": {"capacity_buckets": [48], "phase_engines": "two"}},
        {"options": {"strip_plan": True}},
        {"options": {"weight_streaming": True}, "load": {"weight_streaming_budget": 0}},
        {"quantization": {"quant_algo": "W8A16"}},
        {"options": {"gpt_attention_plugin": "float32"}},
    ],
    ids=["plain", "capacities and two engines", "strip_plan", "weight_streaming", "int8", "paged"],
)
def test_a_right_engine_passes(simulated, tmp_path, monkeypatch, arguments):
    monkeypatch.setattr(builder, "register_plugins", lambda options: None)  # nothing is compiled for no GPU
    difference, facts = try_model(tmp_path, dtype="float32", **arguments)
    assert difference < FLOAT32
    assert facts["plan_bytes"]
    paged = "gpt_attention_plugin" in arguments.get("options", {})
    assert (facts["graphs"] == 0) == ("load" in arguments or paged)  # paged steps are bound anew each time here
    assert list(tmp_path.glob("*.inspector.json"))
    assert (tmp_path / "engine" / "network.onnx").is_file()


BOUND = {one.name: one.bound or 0.0 for one in FEATURES}


@pytest.mark.parametrize("name", MODEL_ALGORITHMS)
@pytest.mark.parametrize("right", [True, False])
def test_models_with_8_bit_inputs_pass_and_fail_with_a_scale_forgotten(
    simulated, tmp_path, monkeypatch, name, right
):
    monkeypatch.setattr(builder, "register_plugins", lambda options: None)
    behaviours = simulated.recorder.behaviours
    deserialize = behaviours["Runtime.deserialize_cuda_engine"]
    changed = []

    def forgetful(*arguments: Any, **named: Any) -> Any:
        engine = deserialize(*arguments, **named)
        for one in engine._state["model"].graph.initializer:
            if one.name.endswith(("layers.1.mlp.fc.per_channel_scale", "layers.1.mlp.fc.weights_scaling_factor")):
                one.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(one), one.name))
                changed.append(one.name)
        return engine

    if not right:
        behaviours["Runtime.deserialize_cuda_engine"] = forgetful
    difference, _ = try_model(tmp_path, dtype="float32", quantization={"quant_algo": MODEL_ALGORITHMS[name]})
    assert bool(changed) is not right
    # Sums in another order move an input over the border between two steps now and then.
    assert difference < BOUND[name] / 2 if right else difference > BOUND[name]


def test_an_int8_cache_is_compared_with_the_same_cache(simulated, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "register_plugins", lambda options: None)
    options = {"gpt_attention_plugin": "float32"}
    quantization = {"kv_cache_quant_algo": "INT8"}
    difference, _ = try_model(tmp_path, dtype="float32", quantization=quantization, options=options)
    assert difference < BOUND["plugin_cache/int8"] / 2


def test_an_fp8_cache_has_a_reference_of_its_own_kind(tmp_path):
    """NumPy has no FP8, so the simulated engine cannot run; the reference is what could never be made once."""
    config = tiny_checkpoint(tmp_path, dtype="float16", quantization={"kv_cache_quant_algo": "FP8"})
    executor = reference_executor(tmp_path, config)
    assert {spec.dtype for spec in executor.io if spec.name.startswith("kv_cache_")} == {"float8_e4m3fn"}
    assert bool(logits_of(executor).isfinite().all())


def test_a_refit_must_give_the_second_model(simulated, tmp_path):
    difference, facts = try_refit(tmp_path / "right", dtype="float32")
    assert difference < FLOAT32
    assert facts["from_the_first"] > 0.5
    simulated.recorder.behaviours["Refitter.refit_cuda_engine"] = lambda refitter: True  # and changes nothing
    difference, _ = try_refit(tmp_path / "wrong", dtype="float32")
    assert difference > 0.5


@pytest.mark.parametrize("fault", ["a key too many", "a stale cache"])
def test_an_engine_that_sees_the_caches_tail_or_forgets_a_token_fails(simulated, tmp_path, monkeypatch, fault):
    compute = RuntimeSide._compute

    def wrong(self: Any, context: Any, shapes: dict[str, Any], addresses: dict[str, int]) -> None:
        import ctypes

        pointer = ctypes.cast(addresses["write_indices"], ctypes.POINTER(ctypes.c_int64))
        if shapes["input_ids"][1] == 1:
            pointer[0] += 1 if fault == "a key too many" else -1
        compute(self, context, shapes, addresses)

    monkeypatch.setattr(RuntimeSide, "_compute", wrong)
    monkeypatch.setattr(TensorRTBuilder, "_verify", lambda *_: None)  # which would notice it as well
    difference, _ = try_model(tmp_path, dtype="float32")
    assert difference > 10 * BOUNDS["bfloat16"]


def test_graphs_must_have_been_used_and_give_the_same(simulated, tmp_path):
    difference, facts = try_cuda_graphs(tmp_path / "works", dtype="float32")
    assert difference < FLOAT32
    assert facts["graphs"] >= 1
    simulated.cuda.captures = False
    with pytest.raises(EngineError, match=r"No decode step was captured\. CUDA refused"):
        try_cuda_graphs(tmp_path / "refused", dtype="float32")


def test_looking_inside_gives_layers_and_tensors(simulated, tmp_path):
    difference, facts = try_looking_inside(tmp_path / "layers", dtype="float32")
    assert difference is None
    assert facts["profiled_layers"] == facts["layers"] == facts["names_in_both"]
    assert (tmp_path / "layers" / "rank0.profile.json").is_file()
    _, facts = try_looking_inside(tmp_path / "debug", options={"enable_debug_output": True}, dtype="float32")
    assert facts["debug_tensors"] > 2


def test_tensors_that_do_not_come_fail(simulated, tmp_path):
    simulated.recorder.behaviours["IExecutionContext.set_debug_listener"] = lambda context, listener: True
    simulated.recorder.behaviours["IExecutionContext.set_tensor_debug_state"] = lambda context, name, flag: True
    with pytest.raises(EngineError, match="debug tensors did not come"):
        try_looking_inside(Path(tmp_path), options={"enable_debug_output": True}, dtype="float32")
