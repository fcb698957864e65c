"""What failed on a machine is refused there with the reason; everything else goes on."""

from __future__ import annotations

import pytest
from tests.backends.tensorrt.running import Running, described

from trtbench_lab.backends.registry import backend
from trtbench_lab.backends.tensorrt.conformance.features import FEATURES
from trtbench_lab.backends.tensorrt.conformance.outcome import Outcome
from trtbench_lab.backends.tensorrt.conformance.refusals import (
    current_machine,
    features_used,
    known_verdicts,
    refuse_failed,
)
from trtbench_lab.backends.tensorrt.conformance.verdicts import Machine, Verdicts, store_outcomes
from trtbench_lab.errors import BuildError
from trtbench_lab.specs import BuildConfig, Mapping, ModelConfig, PluginConfig, QuantConfig

MACHINE = Machine("Imaginary GPU", 90, "580.65.06", "11.4.0.106")
MODEL = ModelConfig(
    architecture="LlamaForCausalLM",
    dtype="float16",
    vocab_size=128,
    max_position_embeddings=128,
    hidden_size=512,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
PADDED = BuildConfig(
    compute_dtype="float16",
    plugin_config=PluginConfig(gpt_attention_plugin="disable", paged_kv_cache=False, remove_input_padding=False),
)
PAGED = BuildConfig(compute_dtype="float16", plugin_config=PluginConfig(gpt_attention_plugin="float16"))

AWQ = QuantConfig(quant_algo="W4A16_AWQ", group_size=128)
SMOOTH = QuantConfig(quant_algo="W8A8_SQ_PER_TENSOR_PLUGIN")


def failed(*features: str, status: str = "failed") -> Verdicts:
    return Verdicts(MACHINE, {name: Outcome(name, status, "Its numbers were wrong.") for name in features})


@pytest.mark.parametrize(
    ("feature", "model", "options"),
    [
        ("native_attention/float16/d128/gqa", {}, PADDED),
        ("native_attention/bfloat16/d128/gqa", {}, PADDED.replace(compute_dtype="bfloat16")),
        ("native_attention/float16/d128/mha", {"num_key_value_heads": 4}, PADDED),
        ("native_attention/float16/d64/mqa", {"num_key_value_heads": 1, "head_size": 64}, PADDED),
        ("plugin_attention/float16/d128/gqa", {}, PAGED),
        ("plugin_cache/fp8", {"quantization": QuantConfig(kv_cache_quant_algo="FP8")}, PAGED),
        ("float32", {}, PADDED.replace(compute_dtype="float32")),
        ("dual_profile", {}, PADDED),
        ("two_engines", {}, PADDED.replace(phase_engines="two")),
        ("capacity_buckets", {}, PADDED.replace(capacity_buckets=(32,))),
        ("refit", {}, PADDED.replace(refit=True)),
        ("strip_plan", {}, PADDED.replace(strip_plan=True)),
        ("weight_streaming", {}, PADDED.replace(weight_streaming=True)),
        ("debug_tensors", {}, PADDED.replace(enable_debug_output=True)),
        ("weight_only_int8", {"quantization": QuantConfig(quant_algo="W8A16")}, PADDED),
        ("weight_only_int4", {"quantization": QuantConfig(quant_algo="W4A16", group_size=128)}, PADDED),
        ("weight_only_int4", {"quantization": AWQ}, PADDED),
        ("weight_only_int4", {"quantization": QuantConfig(quant_algo="W4A16_GPTQ", group_size=64)}, PADDED),
        ("int8_matmul", {"quantization": SMOOTH}, PADDED),
        ("fp8_matmul", {"quantization": QuantConfig(quant_algo="FP8")}, PADDED),
        ("fp8_matmul", {"quantization": QuantConfig(quant_algo="W4A8_AWQ", group_size=128)}, PADDED),
        ("smooth_quant_model/static", {"quantization": SMOOTH}, PADDED),
        ("fp8_model", {"quantization": QuantConfig(quant_algo="FP8")}, PADDED),
        ("collectives", {"mapping": Mapping(world_size=2, tp_size=2)}, PADDED),
    ],
)
def test_a_failed_feature_is_refused_where_it_is_needed_and_nowhere_else(feature, model, options):
    assert any(one.name == feature for one in FEATURES)
    config = MODEL.replace(**model)
    with pytest.raises(BuildError, match=r"failed on this machine: Its numbers were wrong\.") as caught:
        refuse_failed(config, options, failed(feature))
    assert repr(feature) in caught.value.what
    assert caught.value.remedy
    others = failed(*({one.name for one in FEATURES} - {name for name, _ in features_used(config, options)}))
    assert refuse_failed(config, options, others) in (
        [],
        ["CUDA graphs are not used: their conformance test failed on this machine."],
    )


@pytest.mark.parametrize(
    ("feature", "quantization", "switch"),
    [
        ("weight_only_int4", AWQ, "weight_only_groupwise_quant_matmul_plugin"),
        ("int8_matmul", SMOOTH, "smooth_quant_gemm_plugin"),
    ],
)
def test_layers_that_plugins_multiply_rely_on_none_of_tensorrts_own(feature, quantization, switch):
    config = MODEL.replace(quantization=quantization)
    options = PADDED.replace(plugin_config=PADDED.plugin_config.replace(**{switch: "float16"}))
    assert refuse_failed(config, options, failed(feature)) == []
    with pytest.raises(BuildError, match=feature):
        refuse_failed(config, PADDED, failed(feature))


def test_smoothquant_relies_on_the_whole_model_as_it_was_tried():
    """Static scales by TensorRT's own products, scales a token by the plugins; the other ways were not tried."""
    tokens = QuantConfig(quant_algo="W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN")
    plugin = PADDED.replace(plugin_config=PADDED.plugin_config.replace(smooth_quant_gemm_plugin="float16"))
    used = {
        (algo, name): [f for f, _ in features_used(MODEL.replace(quantization=quant), options) if "smooth" in f]
        for algo, quant in (("static", SMOOTH), ("token", tokens))
        for name, options in (("own", PADDED), ("plugin", plugin))
    }
    assert used == {
        ("static", "own"): ["smooth_quant_model/static"],
        ("static", "plugin"): [],
        ("token", "own"): [],
        ("token", "plugin"): ["smooth_quant_model/token"],
    }


@pytest.mark.parametrize(("status", "verb"), [("crashed", "crashed"), ("timed out", "timed out")])
def test_crashes_and_timeouts_count_as_failures(status, verb):
    with pytest.raises(BuildError, match=f"{verb} on this machine"):
        refuse_failed(MODEL, PADDED, failed("dual_profile", status=status))


def test_passed_untried_and_not_run_stand_against_nothing():
    assert refuse_failed(MODEL, PADDED, Verdicts(MACHINE)) == []
    assert refuse_failed(MODEL, PADDED, failed("dual_profile", status="passed")) == []
    assert refuse_failed(MODEL, PADDED, failed("dual_profile", status="not run")) == []


def test_the_builder_asks(recorder, workshop):
    built = workshop.engine()
    options = BuildConfig(backend="tensorrt", max_seq_len=24)
    assert backend("tensorrt").resolve(built.config, options)
    name, _ = next(features_used(built.config, built.options))
    store_outcomes(current_machine(), [Outcome(name, "crashed", "The process was ended by signal 11 (SIGSEGV).")])
    with pytest.raises(BuildError, match="SIGSEGV"):
        backend("tensorrt").resolve(built.config, options)


def test_graphs_that_failed_are_not_used_at_load(recorder, workshop):
    running = Running(recorder, workshop)
    built = workshop.engine()
    assert running.load(built).uses_graphs
    store_outcomes(current_machine(), [Outcome("cuda_graphs", "failed", "CUDA error 900")])
    assert not running.load(built).uses_graphs
    assert running.load(built, cuda_graphs=True).uses_graphs
    notes = backend("tensorrt").resolve(built.config, described(built).build_config).notes
    assert "CUDA graphs are not used: their conformance test failed on this machine." in notes


def test_without_tensorrt_nothing_is_known():
    assert known_verdicts().outcomes == {}
