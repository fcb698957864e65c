"""Builders: what they settle, what they write, what they tell, and what they refuse."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import onnx
import pytest
import torch
from tests.backends.models import Described, Driver, built_executor, checkpoint_of, random_model

from trtbench_lab.backends import registry
from trtbench_lab.backends.protocol import Builder, QuietReporter
from trtbench_lab.backends.registry import BACKENDS, availability, backend, choose_backend
from trtbench_lab.backends.trial import trial_run
from trtbench_lab.checkpoint import RankWeights, config_from_source, convert, open_checkpoint
from trtbench_lab.errors import BuildCancelled, BuildError, EngineError, TrtbenchError
from trtbench_lab.intake.huggingface import open_hf_folder
from trtbench_lab.specs import BuildConfig, Mapping, ModelConfig, PluginConfig, QuantConfig

EMBEDDED = ("onnxruntime", "torch")
CONFIG = ModelConfig(
    architecture="LlamaForCausalLM", dtype="float16", vocab_size=97, max_position_embeddings=64, hidden_size=32,
    num_hidden_layers=2, num_attention_heads=4, position_embedding_type="rope_gpt_neox", norm_type="rmsnorm",
    gated_mlp=True, hidden_act="silu",
)  # fmt: skip


@pytest.fixture(params=EMBEDDED)
def builder(request) -> Builder:
    return backend(request.param)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    made = random_model("gpt2", tmp_path_factory.mktemp("ünï code"))
    checkpoint_of(made, made.folder / "check point")
    return made


@pytest.fixture(scope="module")
def engines(model, tmp_path_factory):
    """The engine folder of each backend, with the reporter of its build."""
    made = {}
    for name in EMBEDDED:
        folder, report = tmp_path_factory.mktemp(name), QuietReporter()
        config = open_checkpoint(model.folder / "check point").config
        resolved = backend(name).resolve(config, BuildConfig(visualize=True)).build_config
        backend(name).build(model.folder / "check point", 0, resolved, folder, report)
        made[name] = (folder, Described(config, resolved), report)
    return made


def test_every_backend_obeys_the_protocol(builder):
    assert isinstance(builder, Builder)
    assert builder.available().ok
    name, version = builder.version().split()
    assert name == builder.backend
    assert version[0].isdigit()
    assert builder.machine_key().split()[1] in ("cpu", "cuda")


def test_the_choice_without_a_gpu(monkeypatch):
    monkeypatch.setattr(registry, "_cuda_devices", lambda: 0)
    assert choose_backend("auto").name == "onnxruntime"
    name, reason = choose_backend("auto", world_size=2)
    assert name == "torch"
    assert "2 ranks" in reason
    monkeypatch.setattr(registry, "_cuda_devices", lambda: 2)
    name, reason = choose_backend("auto")
    assert name == "torch"
    assert "2 GPU(s)" in reason
    assert tuple(choose_backend("torch")) == ("torch", "asked for")


def test_backends_that_cannot_be_had_say_why(monkeypatch):
    with pytest.raises(BuildError, match="no backend 'onnx'") as caught:
        backend("onnx")
    assert "onnxruntime" in str(caught.value)
    with pytest.raises(BuildError, match="tensorrt"):
        choose_backend("tensorrt")
    assert BACKENDS == ("tensorrt", "torch", "onnxruntime")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "not installed" in availability("tensorrt").reason
    assert not availability("onnxruntime").ok
    monkeypatch.setattr(registry, "_cuda_devices", lambda: 0)
    assert choose_backend("auto").name == "torch"


def test_everything_left_open_is_settled_and_explained(builder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    resolution = builder.resolve(CONFIG, BuildConfig())
    config, notes = resolution.build_config, " | ".join(resolution.notes)
    assert config.backend == builder.backend
    assert config.compute_dtype == "float32"
    assert (config.max_seq_len, config.max_input_len) == (64, 63)
    assert "Computes in float32, though the checkpoint is float16" in notes
    assert "gpt_attention_plugin, context_fmha, remove_input_padding, paged_kv_cache: off" in notes
    assert "max_input_len 1024 was clipped to 63" in notes
    plugins = config.plugin_config.to_dict()
    assert "auto" not in plugins.values()
    assert True not in plugins.values()
    again = builder.resolve(CONFIG, config)
    assert again.build_config == config, "settling twice changes nothing"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("weight_streaming", True), ("strip_plan", True), ("refit", True), ("timing_cache", "model.cache"),
        ("enable_debug_output", True), ("profiling_verbosity", "detailed"), ("max_num_tokens", 4096),
        ("max_prompt_embedding_table_size", 10), ("strongly_typed", False),
    ],
)  # fmt: skip
def test_no_option_is_dropped_in_silence(builder, option, value):
    plain = builder.resolve(CONFIG, BuildConfig())
    asked = builder.resolve(CONFIG, BuildConfig(**{option: value}))
    added = [note for note in asked.notes if note not in plain.notes]
    assert any(note.startswith(option) for note in added)
    assert asked.build_config == plain.build_config


@pytest.mark.parametrize("plugin", ["gemm_plugin", "lookup_plugin", "rmsnorm_plugin", "use_custom_all_reduce"])
def test_no_plugin_is_dropped_in_silence(builder, plugin):
    value = True if plugin.startswith("use_") else "auto"
    resolution = builder.resolve(CONFIG, BuildConfig(plugin_config=PluginConfig(**{plugin: value})))
    if builder.backend == "torch" and plugin in ("lookup_plugin", "rmsnorm_plugin"):
        assert resolution.build_config.plugin_config.enabled(plugin)
        assert any(note.startswith(f"{plugin}: on a CPU the plugin's reference runs") for note in resolution.notes)
        return
    assert any(note.startswith(f"{plugin} has no effect") for note in resolution.notes)
    assert not resolution.build_config.plugin_config.enabled(plugin) or plugin.startswith("use_")


def test_types_a_person_asks_for(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    asked = BuildConfig(compute_dtype="bfloat16")
    assert backend("torch").resolve(CONFIG, asked).build_config.compute_dtype == "bfloat16"
    resolution = backend("onnxruntime").resolve(CONFIG, asked)
    assert resolution.build_config.compute_dtype == "float32"
    assert any("compute_dtype bfloat16 was asked for" in note for note in resolution.notes)


def test_models_that_cannot_be_built_are_refused_at_once(builder):
    with pytest.raises(TrtbenchError, match="'alibi' are not supported"):
        builder.resolve(CONFIG.replace(position_embedding_type="alibi"), BuildConfig())
    plain = BuildConfig(plugin_config=PluginConfig(gpt_attention_plugin="disable", paged_kv_cache=False))
    with pytest.raises(TrtbenchError, match="K/V cache of type INT8"):
        builder.resolve(CONFIG.replace(quantization=QuantConfig(kv_cache_quant_algo="INT8")), plain)
    with pytest.raises(TrtbenchError, match="type 'yarn'"):
        builder.resolve(CONFIG.replace(rotary_scaling={"rope_type": "yarn", "factor": 2.0}), BuildConfig())


def test_onnxruntime_runs_one_rank():
    with pytest.raises(BuildError, match="runs one rank, and this model has 2") as caught:
        backend("onnxruntime").resolve(CONFIG.replace(mapping=Mapping(tp_size=2)), BuildConfig())
    assert "torch backend" in str(caught.value)


def test_weight_only_arithmetic_is_stated():
    for algo, level, words in (
        ("W8A16", 3, "round activations to 8 bits, one scale a token"),
        ("W4A16", 2, "round activations to 8 bits, one scale a block of a token"),
        ("W4A16", 3, "the 4-bit weights a second time"),
        ("W8A16", 4, "the 8-bit weights a second time; opt_level 3 leaves that out"),
        ("W4A16", 1, "keep float32 activations"),
        ("W8A16", 1, "dense float32 weights"),
    ):
        config = CONFIG.replace(quantization=QuantConfig(quant_algo=algo))
        notes = backend("onnxruntime").resolve(config, BuildConfig(opt_level=level)).notes
        assert any(words in note for note in notes)


def test_phases_are_reported_in_order(engines):
    assert engines["onnxruntime"][2].phases == [
        "load checkpoint", "export network", "write portable network", "lower network", "write engine", "verify engine",
    ]  # fmt: skip
    assert engines["torch"][2].phases == ["load checkpoint", "write portable network", "write engine", "verify engine"]


def test_files_of_an_engine(engines):
    files = {name: sorted(path.name for path in folder.iterdir()) for name, (folder, _, _) in engines.items()}
    portable = ["network.onnx", "network.onnx.data"]
    assert files["onnxruntime"] == [*portable, "rank0.engine", "rank0.engine.data"]
    assert files["torch"] == [*portable, "rank0.engine"]
    for folder, _, _ in engines.values():
        onnx.checker.check_model(str(folder / "network.onnx"))


def test_an_engine_file_of_onnxruntime_has_no_foreign_nodes(engines):
    folder = engines["onnxruntime"][0]
    model = onnx.load(str(folder / "rank0.engine"), load_external_data=False)
    assert {node.domain for node in model.graph.node} == {"", "com.microsoft"}
    assert not model.functions
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("GroupQueryAttention") == 3
    assert not {"Attention", "TensorScatter", "TRT_Attention", "TRT_KVCacheUpdate"} & set(kinds)
    matmul = next(node for node in model.graph.node if node.op_type == "MatMul")
    assert matmul.input[1].endswith(":transposed")


def test_weights_of_a_torch_engine_are_pages_of_its_file(engines):
    """Loading copies nothing: a weight's memory is a mapping of the engine file."""
    folder, described, _ = engines["torch"]
    executor = backend("torch").load(folder, 0, described, device="cpu")
    weight = executor._decoder.transformer.layers[0].mlp.fc.weight
    assert weight.shape == (256, 64)
    assert weight.stride() == (1, 256), "the matrix lies transposed"
    regions = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "rank0.engine" in line]
    ranges = [tuple(int(end, 16) for end in region[0].split("-")) for region in regions]
    assert any(low <= weight.data_ptr() < high for low, high in ranges)


def test_nothing_is_printed(builder, model, tmp_path, capfd):
    config = open_checkpoint(model.folder / "check point").config
    resolved = builder.resolve(config, BuildConfig()).build_config
    builder.build(model.folder / "check point", 0, resolved, tmp_path, QuietReporter())
    Driver(builder.load(tmp_path, 0, Described(config, resolved), device="cpu"), 1, 4).step(torch.tensor([[1, 2]]))
    assert capfd.readouterr() == ("", "")


def test_a_build_can_be_cancelled_between_tensors(builder, model, tmp_path):
    class Cancelling(QuietReporter):
        def check_cancelled(self) -> None:
            if "write engine" in self.phases:
                raise BuildCancelled("The build was cancelled.")

    config = open_checkpoint(model.folder / "check point").config
    resolved = builder.resolve(config, BuildConfig()).build_config
    with pytest.raises(BuildCancelled):
        builder.build(model.folder / "check point", 0, resolved, tmp_path, Cancelling())


def test_weights_that_overflow_are_found_by_the_trial_run(builder, tmp_path):
    """Finite weights whose products are not: the engine must not leave its build."""
    made = random_model("gpt2", tmp_path / "hf")
    made.hf.transformer.ln_f.weight.data.fill_(3e38)
    made.hf.save_pretrained(tmp_path / "hf")
    checkpoint_of(made, tmp_path / "checkpoint")
    config = open_checkpoint(tmp_path / "checkpoint").config
    resolved = builder.resolve(config, BuildConfig()).build_config
    (tmp_path / "engine").mkdir()
    with pytest.raises(BuildError, match="logits that are not finite"):
        builder.build(tmp_path / "checkpoint", 0, resolved, tmp_path / "engine", QuietReporter())


def test_engines_that_cannot_be_loaded(builder, engines, tmp_path):
    folder, described, _ = engines[builder.backend]
    with pytest.raises(EngineError, match="engine file is missing"):
        builder.load(tmp_path, 0, described, device="cpu")
    for name in ("rank0.engine", "rank0.engine.data"):
        if (folder / name).exists():
            (tmp_path / name).write_bytes((folder / name).read_bytes())
    content = (tmp_path / "rank0.engine").read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"\xff" * 300):
        (tmp_path / "rank0.engine").write_bytes(damaged)
        with pytest.raises(EngineError) as caught:
            builder.load(tmp_path, 0, described, device="cpu")
        assert caught.value.remedy
    with pytest.raises(EngineError, match=r"device|CPU"):
        builder.load(folder, 0, described, device="cuda:99")


def test_an_onnxruntime_engine_without_its_data(engines, tmp_path):
    folder, described, _ = engines["onnxruntime"]
    (tmp_path / "rank0.engine").write_bytes((folder / "rank0.engine").read_bytes())
    with pytest.raises(EngineError, match="cannot load the engine"):
        backend("onnxruntime").load(tmp_path, 0, described)
    (tmp_path / "rank0.engine.data").write_bytes((folder / "rank0.engine.data").read_bytes()[:5000])
    with pytest.raises(EngineError, match="cannot load the engine"):
        backend("onnxruntime").load(tmp_path, 0, described)


def test_a_torch_engine_of_another_model(engines, tmp_path):
    folder, described, _ = engines["torch"]
    other = Described(described.pretrained_config.replace(num_hidden_layers=2), described.build_config)
    with pytest.raises(EngineError, match="tensors are not those of its model"):
        backend("torch").load(folder, 0, other, device="cpu")


def test_torch_ranks_need_a_communicator(model, tmp_path):
    checkpoint_of(model, tmp_path / "two", mapping=Mapping(tp_size=2))
    config = open_checkpoint(tmp_path / "two").config
    builder = backend("torch")
    resolved = builder.resolve(config, BuildConfig()).build_config
    (tmp_path / "engine").mkdir()
    for rank in range(2):
        builder.build(tmp_path / "two", rank, resolved, tmp_path / "engine", QuietReporter())
    with pytest.raises(EngineError, match="split over 2 ranks"):
        builder.load(tmp_path / "engine", 1, Described(config, resolved), device="cpu")


@pytest.mark.parametrize("level", range(2, 6))
def test_optimization_levels_give_the_same_logits(engines, model, level):
    folder, described, _ = engines["onnxruntime"]
    tokens = torch.tensor([[4, 8, 15, 16, 23, 42]])
    config = Described(described.pretrained_config, described.build_config.replace(opt_level=level))
    got = Driver(backend("onnxruntime").load(folder, 0, config), 1, 6).step(tokens)
    expected = model.logits(tokens)
    assert float((got - expected).abs().max()) <= 1e-4 * float(expected.max() - expected.min())


@pytest.mark.parametrize(("family", "level"), [("gpt_bigcode", 0), ("mistral", 1), ("small heads", 3)])
def test_engines_of_standard_ops(family, level, tmp_path):
    """Levels 0 and 1, and heads too small for the fused kernel: ragged, in chunks, then a token more."""
    made = (
        random_model("llama", tmp_path / "hf", hidden_size=32)
        if family == "small heads"
        else random_model(family, tmp_path / "hf")
    )
    checkpoint_of(made, tmp_path / "checkpoint")
    executor = built_executor(
        "onnxruntime", "cpu", tmp_path / "checkpoint", tmp_path / "engine", BuildConfig(opt_level=level)
    )
    graph = onnx.load(str(tmp_path / "engine" / "rank0.engine"), load_external_data=False).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("Attention") == 3
    assert kinds.count("TensorScatter") == 6
    assert {node.domain for node in graph.node} == {""}
    tokens = torch.randint(0, 97, (2, 14), generator=torch.Generator().manual_seed(0))
    expected = made.logits(tokens)
    driver = Driver(executor, batch=2, capacity=14)
    got = torch.cat([driver.step(part) for part in tokens.split([6, 7, 1], dim=1)], 1)
    assert float((got - expected).abs().max()) <= 1e-4 * float(expected.max() - expected.min())


def test_a_longer_engine_than_the_model_was_made_for(tmp_path):
    """Rotary tables are as long as the engine, not as the model's own limit."""
    made = random_model("llama", tmp_path / "hf")
    checkpoint_of(made, tmp_path / "checkpoint")
    config = open_checkpoint(tmp_path / "checkpoint").config
    builder = backend("torch")
    resolved = builder.resolve(config, BuildConfig(max_seq_len=100)).build_config
    (tmp_path / "engine").mkdir()
    builder.build(tmp_path / "checkpoint", 0, resolved, tmp_path / "engine", QuietReporter())
    executor = builder.load(tmp_path / "engine", 0, Described(config, resolved), device="cpu")
    tokens = torch.randint(0, 97, (1, 100), generator=torch.Generator().manual_seed(0))
    expected = made.logits(tokens)
    got = Driver(executor, 1, 100).step(tokens)
    assert float((got - expected).abs().max()) <= 1e-4 * float(expected.max() - expected.min())


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_shortest_engines(limit, tmp_path):
    made = random_model("llama", tmp_path / "hf", max_position_embeddings=limit)
    checkpoint_of(made, tmp_path / "checkpoint")
    executor = built_executor("torch", "cpu", tmp_path / "checkpoint", tmp_path / "engine")
    tokens = torch.tensor([[5, 9, 2][:limit]])
    torch.testing.assert_close(Driver(executor, 1, limit).step(tokens), made.logits(tokens), rtol=1e-4, atol=1e-4)


def test_a_runtime_that_copies_the_cache_is_found(model, tmp_path):
    """The trial run catches an executor that leaves the bound cache alone, or writes too much of it."""

    class Copying:
        backend, device = "fake", torch.device("cpu")

        def __init__(self, executor, spoil):
            self.executor, self.io, self.spoil, self.bound = executor, executor.io, spoil, {}

        def bind(self, name, tensor):
            self.bound[name] = tensor
            self.executor.bind(name, tensor.clone() if name == "past_key_0" and self.spoil == "copy" else tensor)

        def run(self):
            self.executor.run()
            if self.spoil == "overwrite":
                self.bound["past_key_0"].fill_(1.0)

        def synchronize(self):
            pass

    executor = built_executor("torch", "cpu", model.folder / "check point", tmp_path)
    trial_run(Copying(executor, None), 64)
    for spoil in ("copy", "overwrite"):
        with pytest.raises(BuildError, match="does not update its cache in place"):
            trial_run(Copying(executor, spoil), 64)


@pytest.mark.parametrize(("name", "dtype"), [("onnxruntime", "float16"), ("torch", "bfloat16")])
def test_checkpoints_of_short_floats(name, dtype, tmp_path):
    """Weights are rounded by the conversion; the engine computes with the rounded ones in float32."""
    made = random_model("gpt2", tmp_path / "hf")
    source = open_hf_folder(tmp_path / "hf")
    convert(source, tmp_path / "checkpoint", config=config_from_source(source, dtype=dtype))
    for parameter in made.hf.parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype)).float()
    executor = built_executor(name, "cpu", tmp_path / "checkpoint", tmp_path / "engine")
    tokens = torch.tensor([[4, 8, 15, 16, 23, 42]])
    expected = made.logits(tokens)
    got = Driver(executor, 1, 6).step(tokens)
    assert float((got - expected).abs().max()) <= 1e-4 * float(expected.max() - expected.min())


def test_pages_of_the_checkpoint_are_given_back_while_building(builder, model, tmp_path, monkeypatch):
    released: list[str] = []
    monkeypatch.setattr(RankWeights, "release", lambda self, name: released.append(name))
    config = open_checkpoint(model.folder / "check point").config
    resolved = builder.resolve(config, BuildConfig()).build_config
    builder.build(model.folder / "check point", 0, resolved, tmp_path, QuietReporter())
    assert set(released) == set(open_checkpoint(model.folder / "check point").rank(0))


@contextmanager
def unreadable(path: Path):
    """Turn a checkpoint's configuration into nonsense for a while."""
    before = path.read_text()
    path.write_text(json.dumps({"architecture": 3}))
    yield
    path.write_text(before)


def test_a_damaged_checkpoint_is_named(builder, model, tmp_path):
    with unreadable(model.folder / "check point" / "config.json"), pytest.raises(TrtbenchError):
        builder.build(model.folder / "check point", 0, BuildConfig(compute_dtype="float32"), tmp_path, QuietReporter())
