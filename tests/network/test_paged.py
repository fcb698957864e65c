"""The exported paged network: what its nodes say, and that ONNX Runtime computes with it what the modules compute."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime as ort
import pytest
import torch
from tests.network.test_export import CONFIGS, random_weights

from trtbench_lab.network.export import export_network
from trtbench_lab.network.loading import assign_tensors
from trtbench_lab.network.onnx_lint import lint_onnx
from trtbench_lab.network.paged import PagedDecoder
from trtbench_lab.network.signature import PagedForm
from trtbench_lab.specs import Mapping, ModelConfig, PluginConfig, QuantConfig

PLUGINS = PluginConfig(gpt_attention_plugin="float32", tokens_per_block=16)
STEP = ("input_ids", "position_ids", "token_rows", "query_starts", "kv_lengths", "block_tables", "logit_indices")


def config_of(name: str, cache: str | None = None) -> ModelConfig:
    """One layer less than elsewhere: two are all that differ."""
    config = CONFIGS[name].replace(num_hidden_layers=2)
    return config.replace(quantization=QuantConfig(kv_cache_quant_algo=cache))


def decoder_of(config: ModelConfig, form: PagedForm) -> tuple[PagedDecoder, dict[str, torch.Tensor]]:
    weights = random_weights(CONFIGS["gpt2" if not config.uses_rope else "llama"].replace(num_hidden_layers=2))
    decoder = PagedDecoder(config, form=form)
    if form.cache_dtype is not None:
        for layer in range(2):
            name = f"transformer.layers.{layer}.attention.kv_cache_scaling_factor"
            weights[name] = torch.tensor([0.04 + 0.01 * layer])
    assign_tensors(decoder, weights)
    return decoder.eval(), weights


def steps() -> list[dict[str, torch.Tensor]]:
    """A mixed step of three rows, and a decode step of all of them; blocks are scattered."""
    tables = torch.tensor([[3, 6], [5, 0], [2, 4]])
    prompt = {
        "position_ids": [*range(14), 0, *range(3)], "token_rows": [0] * 14 + [1] + [2] * 3,
        "query_starts": [0, 14, 15, 18], "kv_lengths": [14, 1, 3], "logit_indices": [13, 14, 17],
    }  # fmt: skip
    decode = {
        "position_ids": [14, 1, 3], "token_rows": [0, 1, 2], "query_starts": [0, 1, 2, 3],
        "kv_lengths": [15, 2, 4], "logit_indices": [0, 1, 2],
    }  # fmt: skip
    made = []
    for number, step in enumerate((prompt, decode)):
        generator = torch.Generator().manual_seed(number)
        tensors = {name: torch.tensor(values) for name, values in step.items()}
        tensors["input_ids"] = torch.randint(0, 61, tensors["position_ids"].shape, generator=generator)
        made.append({name: value.int() for name, value in {**tensors, "block_tables": tables}.items()})
    return made


def run_onnx(path: Path, step: dict[str, torch.Tensor], pools: list[torch.Tensor]) -> list[torch.Tensor]:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # pools that are not bound in place are copied, with a warning
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    wanted = {value.name for value in session.get_inputs()}
    feeds = {name: value.numpy() for name, value in step.items() if name in wanted}
    feeds |= {f"kv_cache_{layer}": pool.numpy() for layer, pool in enumerate(pools)}
    return [torch.from_numpy(result) for result in session.run(None, feeds)]


@pytest.mark.parametrize(("name", "cache"), [("gpt2", None), ("llama", None), ("llama", "INT8")])
def test_onnx_runtime_computes_what_the_modules_do(name, cache, tmp_path):
    config = config_of(name, cache)
    form = PagedForm.of(config, PLUGINS)
    assert form is not None
    decoder, weights = decoder_of(config, form)
    export_network(config, plugin_config=PLUGINS).write(tmp_path / "mixed.onnx", weights)
    export_network(config, plugin_config=PLUGINS, splits=3).write(tmp_path / "decode.onnx", weights)
    dtype = torch.float32 if cache is None else torch.int8
    pools = [torch.full((7, 2, config.kv_heads, 16, 16), 127, dtype=dtype) for _ in range(2)]
    prompt, decode = steps()
    for file, step in (("mixed", prompt), ("mixed", decode), ("decode", decode)):
        before = [pool.clone() for pool in pools]
        with torch.inference_mode():
            logits, presents = decoder(*[step[one] for one in STEP], pools)
        got, *got_presents = run_onnx(tmp_path / f"{file}.onnx", step, before)
        # float32 sums in another order, over two layers; a key of the INT8 cache may then be the next integer
        near = 1e-4 if cache is None else 2e-2
        torch.testing.assert_close(got, logits, rtol=near, atol=near)
        for got_present, present in zip(got_presents, presents, strict=True):
            assert (got_present.float() - present.float()).abs().max() <= (1e-4 if cache is None else 1)
        if file == "mixed" and step is decode:
            pools = before  # the same step again, by the network that divides rows


@pytest.mark.parametrize("splits", [0, 4])
def test_nodes_are_what_tensorrts_parser_takes_as_plugins(splits, tmp_path):
    config = config_of("llama")
    network = export_network(config, plugin_config=PLUGINS, splits=splits)
    network.write(tmp_path / "network.onnx", random_weights(config))
    onnx.checker.check_model(str(tmp_path / "network.onnx"), full_check=True)
    assert lint_onnx(tmp_path / "network.onnx") == []
    graph = onnx.load(str(tmp_path / "network.onnx"), load_external_data=False).graph
    nodes = [node for node in graph.node if node.domain == "trtbench"]
    attention = ["GptAttentionSplit", "GptAttentionCombine"] if splits else ["GptAttention"]
    assert [node.op_type for node in nodes] == ["GptRotaryCacheUpdate", *attention] * 2
    for node in nodes:
        values = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        assert values["plugin_namespace"] == b"trtbench"
        assert values["aot"] == 1
    names = {tensor.name for tensor in graph.initializer}
    assert "kv_unit_scale" in names


def test_a_quantized_cache_keeps_its_steps_in_float32(tmp_path):
    config = config_of("llama", "FP8")
    _, weights = decoder_of(config, PagedForm(16, "float8_e4m3fn"))
    export_network(config, plugin_config=PLUGINS, dtype=torch.float16).write(tmp_path / "network.onnx", weights)
    graph = onnx.load(str(tmp_path / "network.onnx"), load_external_data=False).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    scale = "transformer.layers.1.attention.kv_cache_scaling_factor"
    assert kinds[scale] == onnx.TensorProto.FLOAT
    assert kinds["transformer.layers.1.attention.qkv.weight"] == onnx.TensorProto.FLOAT16
    pool = next(value for value in graph.input if value.name == "kv_cache_1")
    assert pool.type.tensor_type.elem_type == onnx.TensorProto.FLOAT8E4M3FN
    assert lint_onnx(tmp_path / "network.onnx") == []


def test_pipeline_stages_hand_over_packed_hidden_states():
    config = CONFIGS["llama"].replace(num_hidden_layers=2)
    last = export_network(config, Mapping(pp_size=2, rank=1), plugin_config=PLUGINS).model.graph
    names = [value.name for value in last.inputs]
    assert names[0] == "hidden_states_input"
    assert names[-2:] == ["logit_indices", "kv_cache_0"]
    assert last.inputs[0].shape is not None
    assert [str(size) for size in last.inputs[0].shape] == ["num_tokens", "64"]
