"""What a build hands to TensorRT: networks, profiles, weights, flags, timings; and what it says of it."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
import torch
from tests.backends.models import MAX_POSITIONS, random_model
from tests.backends.tensorrt import build_case
from tests.backends.tensorrt.simulation import aliases_of, plan_parts

from trtbench_lab.backends.protocol import QuietReporter
from trtbench_lab.backends.tensorrt import builder as builder_module
from trtbench_lab.backends.tensorrt.builder_config import builder_config
from trtbench_lab.backends.tensorrt.gpu import Gpu
from trtbench_lab.backends.tensorrt.plan_layout import read_layout
from trtbench_lab.backends.tensorrt.resolution import resolve
from trtbench_lab.checkpoint import open_checkpoint
from trtbench_lab.errors import BuildError, StorageError
from trtbench_lab.network.onnx_lint import lint_onnx
from trtbench_lab.quantization import quantize_checkpoint
from trtbench_lab.specs import BuildConfig, Mapping, PluginConfig, QuantAlgo, QuantConfig

H200 = Gpu("NVIDIA H200", 90, "580.65.06")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_case.checkpoint(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(autouse=True)
def _no_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registering plugins compiles kernels; tests of plugins hold that to the real bindings."""
    monkeypatch.setattr(builder_module, "register_plugins", lambda options: None)


def plan(folder: Path, name: str = "rank0.engine") -> tuple[dict[str, Any], onnx.ModelProto]:
    return plan_parts((folder / name).read_bytes())


# ---- network and weights -------------------------------------------------------------------------------------------


def test_the_plan_has_the_weights_and_the_network_that_onnx_runtime_runs(recorder, source, tmp_path, monkeypatch):
    done = build_case.build(source, tmp_path / "engine", monkeypatch)
    _, model = plan(done.folder)
    assert lint_onnx(model) == []
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    tokens = torch.randint(0, 97, (1, 5))
    feeds = {
        "input_ids": tokens.numpy(),
        "write_indices": np.zeros(1, np.int64),
        "logit_indices": np.arange(5)[None],
    }
    for value in session.get_inputs():
        if value.name.startswith("past_"):
            assert value.shape[2] == 16
            feeds[value.name] = np.zeros([1, *value.shape[1:]], np.float32)
    (logits,) = session.run(["logits"], feeds)
    expected = random_model("llama", tmp_path / "again").logits(tokens).numpy()
    # The same arithmetic in another order of summation; 1e-4 of the range, as for the other backends.
    assert np.abs(logits - expected).max() <= 1e-4 * (expected.max() - expected.min())


def test_weights_are_read_where_the_checkpoint_is_mapped(recorder, source, tmp_path, monkeypatch):
    maps: list[str] = []
    parse = recorder.behaviours["OnnxParser.parse_model_proto"]

    def looked_at(parser: Any) -> bool:
        maps.extend(line for line in Path("/proc/self/maps").read_text().splitlines() if "rank0.safetensors" in line)
        return parse(parser)

    recorder.behaviours["OnnxParser.parse_model_proto"] = looked_at
    build_case.build(source, tmp_path / "engine", monkeypatch)
    calls = recorder.named("OnnxParser.load_initializer")
    assert len(calls) > 10
    ranges = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in maps]
    for call in calls:
        address = call.arguments["data"]
        assert any(low <= address < high for low, high in ranges), call.arguments["name"]


def test_converted_weights_are_mapped_from_a_file_that_goes_away(recorder, source, tmp_path, monkeypatch):
    seen = {}
    parse = recorder.behaviours["OnnxParser.parse_model_proto"]

    def looked_at(parser: Any) -> bool:
        for name, (address, nbytes) in parser._state["loaded"].items():
            seen[name] = ctypes.string_at(address, nbytes)
        return parse(parser)

    recorder.behaviours["OnnxParser.parse_model_proto"] = looked_at
    done = build_case.build(source, tmp_path / "engine", monkeypatch, compute_dtype="float16")
    weights = open_checkpoint(source).rank(0)
    name = "transformer.layers.0.mlp.fc.weight"
    assert seen[name] == weights[name].half().numpy().tobytes()
    assert any("0 bytes are read where" in text for _, text in done.report.lines)
    assert not [path.name for path in done.folder.iterdir() if path.name.startswith(".")]
    # TensorRT's networks are strongly typed: every op must find its inputs in types that ONNX, too, takes together.
    inlined = onnx.inliner.inline_local_functions(plan(done.folder)[1])
    onnx.shape_inference.infer_shapes(inlined, check_type=True, strict_mode=True, data_prop=True)


def test_memory_of_a_build_grows_by_a_tensor_and_not_by_the_model(tmp_path):
    """A model of 96 MiB is laid out; what the process holds besides mapped files grows by less than a tenth of it."""
    # In a process of its own: what earlier tests have freed would serve as room for copies here.
    command = [sys.executable, "-m", "tests.backends.tensorrt.large_model", str(tmp_path)]
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    held, grown = map(int, done.stdout.split())
    assert held > 96 << 20
    assert grown < held // 10


def test_caches_alias_and_have_a_constant_capacity(recorder, source, tmp_path, monkeypatch):
    done = build_case.build(source, tmp_path / "engine", monkeypatch)
    _, model = plan(done.folder)
    assert aliases_of(model)["present_key_0"] == "past_key_0"
    assert len(aliases_of(model)) == 2 * done.config.num_hidden_layers


# ---- profiles and plans --------------------------------------------------------------------------------------------


def test_phases_have_profiles_of_their_own(recorder, source, tmp_path, monkeypatch):
    done = build_case.build(
        source, tmp_path / "engine", monkeypatch, max_batch_size=8, batch_buckets=(1, 4), length_buckets=(4,)
    )
    header, _ = plan(done.folder)
    tokens = [profile["input_ids"] for profile in header["profiles"]]
    assert tokens == [
        [[1, 1], [8, 4], [8, 4]],
        [[1, 1], [8, 8], [8, 8]],
        [[1, 1], [1, 1], [1, 1]],
        [[2, 1], [4, 1], [4, 1]],
        [[5, 1], [8, 1], [8, 1]],
    ]
    assert read_layout(done.folder, 0).plans[0].phases == ("prompt", "prompt", "decode", "decode", "decode")
    assert all(profile["past_key_0"][2][2] == 16 for profile in header["profiles"])


@pytest.mark.parametrize(("gather", "most"), [(False, 1), (True, 8)])
def test_logits_of_every_prompt_token_are_asked_for(recorder, source, tmp_path, monkeypatch, gather, most):
    done = build_case.build(source, tmp_path / "engine", monkeypatch, gather_context_logits=gather)
    header, _ = plan(done.folder)
    assert header["profiles"][0]["logit_indices"][2] == [2, most]


def test_two_engines_and_capacities(recorder, source, tmp_path, monkeypatch):
    done = build_case.build(source, tmp_path / "engine", monkeypatch, phase_engines="two", capacity_buckets=(8,))
    layout = read_layout(done.folder, 0)
    assert {(one.file, one.capacity, set(one.phases) <= {"decode"}) for one in layout.plans} == {
        ("rank0.engine", 16, False),
        ("rank0.decode.engine", 16, True),
        ("rank0.s8.engine", 8, False),
        ("rank0.s8.decode.engine", 8, True),
    }
    assert layout.capacities == (8, 16)
    assert plan(done.folder, "rank0.s8.engine")[0]["profiles"][0]["past_key_0"][0] == [1, 2, 8, 16]
    assert sum("weights" in note for note in done.notes) == 2


def test_the_paged_form_has_packed_tokens_and_blocks(recorder, source, tmp_path, monkeypatch):
    plugins = PluginConfig(gpt_attention_plugin="float16", tokens_per_block=8)
    done = build_case.build(
        source, tmp_path / "engine", monkeypatch, plugin_config=plugins, phase_engines="two", compute_dtype="float16"
    )
    layout = read_layout(done.folder, 0)
    assert (layout.form, layout.tokens_per_block, layout.cache_dtype) == ("paged", 8, "float16")
    header, model = plan(done.folder)
    assert [value.name for value in model.graph.input][:4] == [
        "input_ids",
        "position_ids",
        "token_rows",
        "query_starts",
    ]
    assert header["profiles"][0]["query_starts"] == [[2], [3], [3]]
    assert header["profiles"][0]["block_tables"][2] == [2, 2]
    assert all(
        any(attribute.name == "plugin_namespace" for attribute in node.attribute)
        for node in model.graph.node
        if "attention" in node.op_type.lower()
    )
    decode, decode_model = plan(done.folder, "rank0.decode.engine")
    assert decode["profiles"][0]["input_ids"] == decode["profiles"][0]["kv_lengths"]
    ops = [{node.op_type for node in one.graph.node} for one in (model, decode_model)]
    assert ops[0] != ops[1], "decode steps divide long rows over programs"


def test_ranks_are_built_with_collectives(recorder, tmp_path, monkeypatch):
    two = build_case.checkpoint(tmp_path, "llama", mapping=Mapping(tp_size=2))
    done = build_case.build(two, tmp_path / "engine", monkeypatch, rank=1)
    _, model = plan(done.folder, "rank1.engine")
    assert sum(node.op_type == "DistCollective" for node in model.graph.node) == 2 * done.config.num_hidden_layers + 1
    assert done.options.plugin_config.nccl_plugin == "float32"


@pytest.mark.parametrize(("algo", "node"), [(QuantAlgo.W8A16, "Int8MatMul"), (QuantAlgo.W4A16, "Int4MatMul")])
def test_weight_only_layers_are_dequantized_by_tensorrt(recorder, tmp_path, monkeypatch, algo, node):
    model = random_model("llama", tmp_path / "hf", intermediate_size=128)
    build_case.checkpoint_of(model, tmp_path / "dense")
    quantize_checkpoint(tmp_path / "dense", tmp_path / "quantized", QuantConfig(quant_algo=algo))
    done = build_case.build(tmp_path / "quantized", tmp_path / "engine", monkeypatch)
    _, built = plan(done.folder)
    assert lint_onnx(built) == []
    ops = [one.op_type for one in built.graph.node]
    assert ops.count(node) == 5 * done.config.num_hidden_layers  # qkv, dense, gate, fc, proj
    kinds = {one.data_type for one in built.graph.initializer}
    assert (onnx.TensorProto.INT8 if algo is QuantAlgo.W8A16 else onnx.TensorProto.INT4) in kinds


# ---- options -------------------------------------------------------------------------------------------------------


def test_options_reach_the_builder(recorder, source, tmp_path, monkeypatch):
    done = build_case.build(
        source, tmp_path / "engine", monkeypatch, opt_level=5, aux_streams=3, tiling="full", workspace_limit_mib=256,
        profiling_verbosity="detailed", hardware_compatibility="ampere_plus", refit=True, weight_streaming=True,
    )  # fmt: skip
    set_to = {call.name: call.arguments["value"] for call in recorder.calls if call.name.startswith("IBuilderConfig.")
              and call.name.endswith("=")}  # fmt: skip
    assert set_to["IBuilderConfig.builder_optimization_level="] == 5
    assert set_to["IBuilderConfig.max_aux_streams="] == 3
    assert set_to["IBuilderConfig.tiling_optimization_level="].name == "FULL"
    assert set_to["IBuilderConfig.profiling_verbosity="].name == "DETAILED"
    assert set_to["IBuilderConfig.hardware_compatibility_level="].name == "AMPERE_PLUS"
    (limit,) = recorder.named("IBuilderConfig.set_memory_pool_limit")
    assert (limit.arguments["pool"].name, limit.arguments["pool_size"]) == ("WORKSPACE", 256 << 20)
    assert plan(done.folder)[0]["flags"] == ["REFIT", "WEIGHT_STREAMING"]


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("tiling", "tiling_optimization_level"),
        ("profiling_verbosity", "profiling_verbosity"),
        ("hardware_compatibility", "hardware_compatibility_level"),
    ],
)
def test_every_choice_is_one_of_tensorrts(recorder, field, name):
    trt = recorder.module
    builder = trt.Builder(trt.Logger())
    (choices,) = (info.choices for info in BuildConfig.options() if info.name == field)
    assert len(choices) >= 3
    for choice in choices:
        builder_config(trt, builder, BuildConfig(compute_dtype="float32", **{field: choice}))
        value = recorder.named(f"IBuilderConfig.{name}=")[-1].arguments["value"]
        assert value is getattr(type(value), choice.upper())


def test_what_nobody_asked_for_is_left_to_tensorrt(recorder, source, tmp_path, monkeypatch):
    build_case.build(source, tmp_path / "engine", monkeypatch)
    assert not recorder.named("IBuilderConfig.set_memory_pool_limit")
    assert not recorder.named("IBuilderConfig.max_aux_streams=")


def test_debug_output_marks_modules(recorder, source, tmp_path, monkeypatch):
    done = build_case.build(source, tmp_path / "engine", monkeypatch, enable_debug_output=True)
    names = read_layout(done.folder, 0).debug_tensors
    for module in ("transformer.layers.0", "transformer.layers.1.attention", "transformer.layers.2.mlp"):
        assert f"{module}.output" in names
    assert len(recorder.named("INetworkDefinition.mark_debug")) == len(names)


def test_visualize_keeps_the_very_network(recorder, source, tmp_path, monkeypatch):
    done = build_case.build(source, tmp_path / "engine", monkeypatch, visualize=True)
    assert lint_onnx(done.folder / "network.onnx") == []
    onnx.checker.check_model(str(done.folder / "network.onnx"))


def test_stripped_plans_name_where_their_weights_are(recorder, source, tmp_path, monkeypatch):
    whole = build_case.build(source, tmp_path / "whole", monkeypatch, refit=True)
    done = build_case.build(source, tmp_path / "engine", monkeypatch, strip_plan=True, refit=True, visualize=True)
    layout = read_layout(done.folder, 0)
    assert (layout.stripped, layout.network) == (True, "network.onnx")
    assert (done.folder / "rank0.engine").stat().st_size < (whole.folder / "rank0.engine").stat().st_size // 2


def test_a_full_disk_is_said(recorder, source, tmp_path, monkeypatch):
    from trtbench_lab.backends.tensorrt import plan_building

    def full(*arguments: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plan_building, "open", full, raising=False)
    with pytest.raises(StorageError, match="write the engine"):
        build_case.build(source, tmp_path / "engine", monkeypatch)


# ---- resolution ----------------------------------------------------------------------------------------------------


def resolved(source: Path, gpu: Gpu = H200, config: Any = None, **options: Any) -> Any:
    return resolve(config or open_checkpoint(source).config, BuildConfig(**options), gpu)


def test_native_attention_is_the_default_and_said(source):
    found = resolved(source)
    plugins = found.build_config.plugin_config
    assert not plugins.enabled("gpt_attention_plugin")
    assert not plugins.paged_kv_cache
    assert any("TRT_KVCacheUpdate" in note for note in found.notes)
    assert "auto" not in {
        getattr(plugins, info.name) for info in PluginConfig.options() if info.name.endswith("plugin")
    }
    assert found.build_config.backend == "tensorrt"


def test_bfloat16_falls_back_on_old_gpus(source):
    found = resolved(source, Gpu("Tesla T4", 75, "570"), compute_dtype="bfloat16")
    assert found.build_config.compute_dtype == "float16"
    assert any("Tesla T4 has no bfloat16" in note for note in found.notes)


@pytest.mark.parametrize(
    ("gpu", "mapping", "words"),
    [
        (Gpu("Tesla V100", 70, "570"), Mapping(), "7.5 and later; Tesla V100 has 7.0"),
        (Gpu("Tesla T4", 75, "570"), Mapping(tp_size=2), "collectives need compute capability 8.0"),
    ],
)
def test_gpus_that_tensorrt_does_not_serve(source, gpu, mapping, words):
    config = open_checkpoint(source).config.replace(mapping=mapping)
    with pytest.raises(BuildError, match=words):
        resolved(source, gpu, config)


@pytest.mark.parametrize("name", ["rmsnorm_quantization_plugin", "layernorm_quantization_plugin"])
def test_norms_with_int8_results_are_not_pretended(source, name):
    found = resolved(source, plugin_config=PluginConfig(**{name: "float16"}))
    assert not found.build_config.plugin_config.enabled(name)
    assert any(f"{name} has no effect" in note for note in found.notes)
    assert not any(name in note for note in resolved(source).notes)


def test_plugins_and_hardware_compatibility_exclude_each_other(source):
    plugins = PluginConfig(rmsnorm_plugin="float16")
    with pytest.raises(BuildError, match="rmsnorm_plugin cannot be had: plugins are compiled for one architecture"):
        resolved(source, plugin_config=plugins, hardware_compatibility="ampere_plus")


def test_plugins_without_triton(source, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BuildError, match="plugins need Triton"):
        resolved(source, plugin_config=PluginConfig(gpt_attention_plugin="float16"))
    assert resolved(source).build_config.backend == "tensorrt"


@pytest.mark.parametrize(("group_size", "fits"), [(64, True), (None, False), (32, False)])
def test_int4_needs_blocks_of_64_or_128(source, group_size, fits):
    """The model's feed-forward width, 56, is no multiple of 64, so only whole groups of 64 of a wider one fit."""
    config = open_checkpoint(source).config.replace(
        quantization=QuantConfig(quant_algo=QuantAlgo.W4A16, group_size=group_size), intermediate_size=128
    )
    if group_size is None:
        config = config.replace(intermediate_size=56)
    group = "groupwise_" if group_size else ""
    switch = f"weight_only_{group}quant_matmul_plugin"
    found = resolved(source, config=config)
    assert found.build_config.plugin_config.enabled(switch) is not fits
    assert any(switch in note for note in found.notes) is not fits
    if not fits:
        with pytest.raises(BuildError, match="blocks of 64 or 128"):
            resolved(source, config=config, plugin_config=PluginConfig(**{switch: "disable"}))
        with pytest.raises(BuildError, match="compiled for one architecture"):
            resolved(source, config=config, hardware_compatibility="ampere_plus")


def test_every_option_without_effect_is_said(source):
    found = resolved(
        source, strongly_typed=False, max_prompt_embedding_table_size=4, phase_engines="two", opt_level=0,
        capacity_buckets=(32,), weight_streaming=True,
    )  # fmt: skip
    text = " ".join(found.notes)
    for words in (
        "strongly_typed is always on",
        "prompt tuning",
        "twice",
        "2 cache capacities",
        "opt_level 0",
        "stream",
    ):
        assert words in text
    assert found.build_config.max_seq_len == MAX_POSITIONS


def test_build_report_names_what_was_done(recorder, source, tmp_path, monkeypatch):
    report = QuietReporter()
    build_case.build(source, tmp_path / "engine", monkeypatch, report=report)
    assert report.phases[:3] == ["load checkpoint", "start TensorRT", "export network"]
    assert "TensorRT: Building Engine" in report.phases
    text = "\n".join(line for _, line in report.lines)
    assert "profile 0: prompt: batch 1 to 2" in text
    assert json.loads((tmp_path / "engine" / "rank0.layout.json").read_text())["compute_dtype"] == "float32"
