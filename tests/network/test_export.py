"""The portable network: what it says, and that ONNX Runtime computes with it what the modules compute."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from trtbench_lab.errors import CheckpointError, SpecError, StorageError
from trtbench_lab.network import tracing
from trtbench_lab.network.decoder import Decoder
from trtbench_lab.network.export import ExportedNetwork, export_network, export_onnx
from trtbench_lab.network.loading import assign_tensors
from trtbench_lab.network.onnx_lint import lint_onnx
from trtbench_lab.quantization.weight_only import quantize
from trtbench_lab.specs import Mapping, ModelConfig, PluginConfig, QuantConfig

CONFIGS = {
    "gpt2": ModelConfig(
        architecture="GPTForCausalLM", dtype="float32", vocab_size=61, max_position_embeddings=32, hidden_size=64,
        num_hidden_layers=3, num_attention_heads=4, hidden_act="gelu_new", share_embedding_table=True,
        tie_word_embeddings=True,
    ),
    "llama": ModelConfig(
        architecture="LlamaForCausalLM", dtype="float32", vocab_size=61, max_position_embeddings=32, hidden_size=64,
        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, hidden_act="silu", intermediate_size=128,
        position_embedding_type="rope_gpt_neox", norm_type="rmsnorm", gated_mlp=True, qkv_bias=False,
        dense_bias=False, mlp_bias=False, sliding_window=4,
    ),
}  # fmt: skip


@functools.cache
def network_of(config_name: str, num_layers: int, capacity: int | None = 12) -> ExportedNetwork:
    """An exported network that several tests share: tracing takes seconds, writing does not change it."""
    return export_network(CONFIGS[config_name].replace(num_hidden_layers=num_layers), capacity=capacity)


def random_weights(config: ModelConfig, mapping: Mapping | None = None) -> dict[str, torch.Tensor]:
    """Weights by checkpoint name; quantized layers from real quantization."""
    with torch.device("meta"):
        decoder = Decoder(config, mapping)
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, torch.Tensor] = {}
    for name, module in decoder.named_modules():
        if getattr(module, "scheme", None) is not None:
            dense = 0.3 * torch.randn(module.out_features, module.in_features, generator=generator)
            weights[f"{name}.weight"], weights[f"{name}.{module.scheme.scale_name}"] = quantize(dense, module.scheme)
    for name, parameter in decoder.named_parameters():
        if name not in weights:
            weights[name] = 0.3 * torch.randn(parameter.shape, generator=generator)
    return weights


def eager_logits(config, weights, tokens, write_indices, caches):
    decoder = Decoder(config)
    assign_tensors(decoder, weights)
    wanted = torch.arange(tokens.shape[1]).repeat(tokens.shape[0], 1)
    with torch.inference_mode():
        return decoder(tokens, write_indices, wanted, [cache.clone() for cache in caches])


def onnx_logits(path: Path, tokens, write_indices, caches):
    options = ort.SessionOptions()
    options.log_severity_level = 4  # caches that are not bound in place are copied, with a warning
    # By default it fuses dequantization and product into one that rounds the activations to 8 bits.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {
        "input_ids": tokens.numpy(),
        "write_indices": write_indices.numpy(),
        "logit_indices": np.tile(np.arange(tokens.shape[1]), (tokens.shape[0], 1)),
    }
    for number, cache in enumerate(caches):
        feeds[f"past_{'value' if number % 2 else 'key'}_{number // 2}"] = cache.numpy()
    return [torch.from_numpy(result) for result in session.run(None, feeds)]


def example(config: ModelConfig):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, config.vocab_size, (2, 5), generator=generator)
    shape = (2, config.kv_heads, 12, config.head_width)
    caches = [torch.randn(shape, generator=generator) for _ in range(2 * config.num_hidden_layers)]
    return tokens, torch.tensor([0, 6]), caches


def quantized(config: ModelConfig, algo: str, group_size: int | None) -> ModelConfig:
    quantization = QuantConfig(quant_algo=algo, group_size=group_size, exclude_modules=())
    return config.replace(quantization=quantization, share_embedding_table=False)


@pytest.fixture(scope="module", params=list(CONFIGS))
def exported(request, tmp_path_factory):
    """Configuration, weights and network file of one family."""
    config = CONFIGS[request.param]
    weights = random_weights(config)
    path = tmp_path_factory.mktemp(f"ünï {request.param}") / "network.onnx"
    network_of(request.param, config.num_hidden_layers).write(path, weights)
    return config, weights, path


def test_onnx_runtime_computes_what_the_modules_do(exported):
    config, weights, path = exported
    tokens, write_indices, caches = example(config)
    logits, presents = eager_logits(config, weights, tokens, write_indices, caches)
    got, *got_presents = onnx_logits(path, tokens, write_indices, caches)
    # float32 sums in another order: 1e-6 relative, over three layers
    torch.testing.assert_close(got, logits, rtol=1e-4, atol=1e-4)
    for got_present, present in zip(got_presents, presents, strict=True):
        torch.testing.assert_close(got_present, present, rtol=1e-4, atol=1e-4)


def test_the_file_is_valid_onnx_that_tensorrt_can_parse(exported):
    _, _, path = exported
    onnx.checker.check_model(str(path), full_check=True)
    assert lint_onnx(path) == []


def test_tensorrt_finds_its_own_operators_by_name(exported):
    config, _, path = exported
    model = onnx.load(str(path), load_external_data=False)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("TRT_Attention") == config.num_hidden_layers
    assert kinds.count("TRT_KVCacheUpdate") == 2 * config.num_hidden_layers
    assert "Attention" not in kinds
    assert "TensorScatter" not in kinds
    assert {function.name for function in model.functions} == {"TRT_Attention", "TRT_KVCacheUpdate"}
    attention = next(node for node in model.graph.node if node.op_type == "TRT_Attention")
    assert {attribute.name for attribute in attention.attribute} == {"causal_kind", "query_form", "kv_form"}


def test_initializers_have_the_checkpoints_names(exported):
    _, weights, path = exported
    names = {tensor.name for tensor in onnx.load(str(path), load_external_data=False).graph.initializer}
    assert names - {"rotary_cos", "rotary_sin"} == set(weights)


def test_nothing_of_the_machine_is_in_the_file(exported):
    _, _, path = exported
    content = path.read_bytes()
    for trace in (b"/home", b"site-packages", b".py", b"stack_trace", str(Path.cwd()).encode()):
        assert trace not in content


def test_the_open_sizes_are_named(exported):
    config, _, path = exported
    graph = onnx.load(str(path), load_external_data=False).graph

    def shape(value):
        return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]

    assert shape(graph.input[0]) == ["batch", "length"]
    assert shape(graph.input[3]) == ["batch", config.kv_heads, 12, config.head_width]
    assert shape(graph.output[0]) == ["batch", "num_logits", config.vocab_size]


def test_tensorrt_wants_a_constant_capacity_and_nothing_else(tmp_path):
    weights = random_weights(CONFIGS["gpt2"])
    network_of("gpt2", 3, None).write(tmp_path / "open.onnx", weights)
    rules = {finding.rule for finding in lint_onnx(tmp_path / "open.onnx")}
    assert rules == {"cache"}
    assert lint_onnx(tmp_path / "open.onnx", fixed_capacity=False) == []


def test_repeating_a_layer_gives_what_tracing_all_of_them_gives():
    config = CONFIGS["llama"]

    def structure(network):
        graph = network.model.graph
        producers = {output: (node.op_type, i) for node in graph for i, output in enumerate(node.outputs)}
        order = {node: number for number, node in enumerate(graph)}

        def source(value):
            if value is None:
                return None
            producer = value.producer()
            return (value.name if producer is None else order[producer], producers.get(value))

        nodes = [
            (node.name, node.op_type, [source(value) for value in node.inputs],
             {name: str(attribute.value) for name, attribute in node.attributes.items()})
            for node in graph
        ]  # fmt: skip
        return nodes, [value.name for value in graph.inputs], [source(value) for value in graph.outputs]

    plugins = PluginConfig(gpt_attention_plugin="disable", rmsnorm_plugin="auto", swiglu_plugin="auto")
    paged = plugins.replace(gpt_attention_plugin="auto")
    stage = Mapping(pp_size=2, rank=0)  # ends with the last layer's hidden state
    for options in ({"mapping": stage, "plugin_config": plugins}, {"plugin_config": paged}):
        options["config"] = config.replace(num_hidden_layers=6) if "mapping" in options else config
        repeated, whole = (export_network(capacity=12, repeat_layers=repeat, **options) for repeat in (True, False))
        assert structure(repeated) == structure(whole)
        assert set(repeated.initializers) == set(whole.initializers)


def test_a_program_that_is_not_traced_again_gives_the_same_network(monkeypatch):
    """Operators of the network, of a quantized layer that torch divides and casts for, and of two ranks."""
    config = CONFIGS["gpt2"].replace(num_hidden_layers=1, vocab_size=64)
    quantization = QuantConfig(quant_algo="W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN", smoothquant_val=0.5)
    config = config.replace(quantization=quantization, share_embedding_table=False)
    networks = [export_network(config, Mapping(tp_size=2), capacity=12)]
    monkeypatch.setattr(tracing, "_stands", lambda node: False)
    networks.append(export_network(config, Mapping(tp_size=2), capacity=12))
    one, other = (ir.serde.serialize_model(network.model).SerializeToString() for network in networks)
    assert one == other


def test_layers_that_differ_are_all_traced():
    config = quantized(CONFIGS["llama"], "W8A16", None)
    mixed = config.replace(
        quantization=config.quantization.replace(exclude_modules=("lm_head", "transformer.layers.1.mlp.*"))
    )
    kinds = [(node.name, node.op_type) for node in export_network(mixed).model.graph]
    assert ("transformer.layers.1.mlp.fc/MatMul", "MatMul") in kinds
    assert ("transformer.layers.2.mlp.fc/Int8MatMul", "Int8MatMul") in kinds


@pytest.mark.parametrize(
    ("algo", "group_size", "complaints"),
    [
        ("W8A16", None, set()),
        ("W8A16", 32, set()),
        ("W4A16", None, set()),
        ("W4A16", 64, set()),
        ("W4A16", 32, {"quantization"}),  # runs here; TensorRT knows 4-bit blocks of 64 and 128 only
    ],
)
def test_weight_only_networks(algo, group_size, complaints, tmp_path):
    config = quantized(CONFIGS["llama"].replace(num_hidden_layers=1), algo, group_size)
    weights = random_weights(config)
    path = tmp_path / "network.onnx"
    export_onnx(config, weights, path, capacity=12)
    onnx.checker.check_model(str(path))
    assert {finding.rule for finding in lint_onnx(path)} == complaints
    tokens, write_indices, caches = example(config)
    logits, _ = eager_logits(config, weights, tokens, write_indices, caches)
    torch.testing.assert_close(onnx_logits(path, tokens, write_indices, caches)[0], logits, rtol=1e-4, atol=1e-4)


def test_weights_beyond_two_gigabytes(tmp_path):
    """Each tensor starts at a multiple of 1 GiB in a sparse file, so that offsets pass 2³¹ and 2³² at no cost."""
    config = CONFIGS["llama"]
    weights = random_weights(config)
    path = tmp_path / "network.onnx"
    network_of("llama", 3).write(path, weights, alignment=1 << 30)
    data = path.with_name("network.onnx.data")
    assert data.stat().st_size > 1 << 33
    assert data.stat().st_blocks * 512 < 1 << 22
    tokens, write_indices, caches = example(config)
    logits, _ = eager_logits(config, weights, tokens, write_indices, caches)
    torch.testing.assert_close(onnx_logits(path, tokens, write_indices, caches)[0], logits, rtol=1e-4, atol=1e-4)


def test_weights_are_read_one_at_a_time(tmp_path):
    """No more than one tensor is asked for before the one before it has been written."""
    weights = random_weights(CONFIGS["llama"])
    data = tmp_path / "network.onnx.data"
    network = network_of("llama", 3)
    seen: list[tuple[str, int]] = []

    class Watched(dict):
        def __getitem__(self, name):
            seen.append((name, data.stat().st_size))
            return super().__getitem__(name)

    network.write(tmp_path / "network.onnx", Watched(weights))
    assert len(seen) == len(weights)
    sizes = [size for _, size in seen]
    assert sizes == sorted(sizes)
    # Buffered writes may lag by one tensor, never by more.
    written = 0
    for (name, _), (_, later) in zip(seen, seen[2:], strict=False):
        if weights[name].nbytes > 1024:
            written += weights[name].nbytes
        assert later >= written - weights[name].nbytes


def test_float16_networks_keep_their_type(tmp_path):
    config = CONFIGS["llama"].replace(num_hidden_layers=1)
    export_onnx(config, random_weights(config), tmp_path / "network.onnx", capacity=12, dtype=torch.float16)
    onnx.checker.check_model(str(tmp_path / "network.onnx"), full_check=True)
    graph = onnx.load(str(tmp_path / "network.onnx"), load_external_data=False).graph
    half = ir.DataType.FLOAT16.value
    assert {tensor.data_type for tensor in graph.initializer} == {half}
    assert graph.input[3].type.tensor_type.elem_type == half
    assert graph.output[0].type.tensor_type.elem_type == ir.DataType.FLOAT.value
    assert lint_onnx(tmp_path / "network.onnx") == []


def test_what_the_exporter_says_is_logged_and_not_printed(capfd):
    lines: list[tuple[str, str]] = []
    export_network(
        CONFIGS["gpt2"].replace(num_hidden_layers=1), capacity=12, log=lambda level, text: lines.append((level, text))
    )
    assert capfd.readouterr() == ("", "")
    assert all(level in ("debug", "info", "warning") for level, _ in lines)


def test_a_missing_or_misshapen_weight_is_named(tmp_path):
    weights = random_weights(CONFIGS["llama"])
    network = network_of("llama", 3)
    name = "transformer.layers.0.mlp.gate.weight"
    with pytest.raises(CheckpointError, match="lacks the tensor") as caught:
        network.write(tmp_path / "a.onnx", {key: value for key, value in weights.items() if key != name})
    assert caught.value.where == name
    with pytest.raises(CheckpointError, match=r"shape \(64, 128\); its configuration asks for \(128, 64\)"):
        network.write(tmp_path / "a.onnx", {**weights, name: weights[name].t()})


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(StorageError):
        network_of("llama", 3).write(tmp_path / "missing" / "a.onnx", random_weights(CONFIGS["llama"]))


def test_what_cannot_be_exported_is_refused_with_a_reason():
    config = CONFIGS["llama"]
    with pytest.raises(SpecError, match="'alibi' are not supported"):
        export_network(config.replace(position_embedding_type="alibi"))
    with pytest.raises(SpecError, match="'yarn' is not supported"):
        export_network(config.replace(rotary_scaling={"rope_type": "yarn", "factor": 2.0}))


def test_pipeline_stages_hand_over_the_hidden_state(tmp_path):
    config = CONFIGS["llama"].replace(num_hidden_layers=2)  # one layer a stage
    first, last = Mapping(pp_size=2, rank=0), Mapping(pp_size=2, rank=1)
    names = [[value.name for value in export_network(config, stage).model.graph.inputs] for stage in (first, last)]
    assert names[0] == ["input_ids", "write_indices", "past_key_0", "past_value_0"]
    assert names[1] == ["hidden_states_input", "write_indices", "logit_indices", "past_key_0", "past_value_0"]
