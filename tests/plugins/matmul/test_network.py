"""Networks whose linear layers are plugins, on ONNX Runtime: Hugging Face's logits, or those without the plugins."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
from tests.families import tiny
from tests.families.test_parity import model_of
from tests.families.test_plugins import CAPACITY, MemorySource, logits_of, plugin_nodes

from trtbench_lab.checkpoint import config_from_source, convert, open_checkpoint
from trtbench_lab.families import all_families
from trtbench_lab.network.export import export_onnx
from trtbench_lab.network.onnx_lint import lint_onnx
from trtbench_lab.quantization import quantize_checkpoint
from trtbench_lab.specs import PluginConfig, QuantConfig

CASES = [
    (None, {"gemm_plugin": "auto"}, "DenseMatMul"),
    (QuantConfig(quant_algo="W8A16"), {"weight_only_quant_matmul_plugin": "auto"}, "Int8ChannelProduct"),
    (QuantConfig(quant_algo="W4A16"), {"weight_only_quant_matmul_plugin": "auto"}, "Int4ChannelProduct"),
    (
        QuantConfig(quant_algo="W4A16", group_size=32),
        {"weight_only_groupwise_quant_matmul_plugin": "auto"},
        "Int4GroupProduct",
    ),
    (
        QuantConfig(quant_algo="W8A16", group_size=32),
        {"weight_only_groupwise_quant_matmul_plugin": "auto"},
        "Int8GroupProduct",
    ),
]
OTHERS = [family.name for family in all_families() if family.name != "gpt2"]
"""Their layers differ from GPT-2's by shape and bias alone: the plugin that takes every layer is enough."""
OFF = dict.fromkeys(
    (
        "gpt_attention_plugin",
        "gemm_plugin",
        "weight_only_quant_matmul_plugin",
        "weight_only_groupwise_quant_matmul_plugin",
    ),
    "disable",
)


def as_written() -> onnxruntime.SessionOptions:
    """Options without fusions: some of them round activations to 8 bits."""
    options = real_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


real_options = onnxruntime.SessionOptions


@pytest.mark.parametrize(
    ("name", "quant", "switch", "op_type"),
    [*((name, *CASES[0]) for name in OTHERS), *(("gpt2", *case) for case in CASES)],
    ids=[*(f"{name}-DenseMatMul" for name in OTHERS), *(f"gpt2-{case[2]}" for case in CASES)],
)
@torch.no_grad()
def test_linear_plugins_change_nothing_but_the_nodes(name, quant, switch, op_type, tmp_path: Path, monkeypatch) -> None:
    family = next(one for one in all_families() if one.name == name)
    values, tensors, model = model_of(family)
    source = MemorySource(values, tensors)
    if quant is None:
        convert(source, tmp_path / "checkpoint", config=config_from_source(source, "float32"))
    else:
        quantize_checkpoint(source, tmp_path / "checkpoint", quant, dtype="float32")
    checkpoint = open_checkpoint(tmp_path / "checkpoint")
    monkeypatch.setattr(onnxruntime, "SessionOptions", as_written)
    tokens = torch.randint(0, tiny.VOCAB, (2, 9), generator=torch.Generator().manual_seed(3))
    config = checkpoint.config
    on, off = PluginConfig(**{**OFF, **switch}), PluginConfig(**OFF)
    export_onnx(config, checkpoint.rank(0), tmp_path / "on.onnx", capacity=CAPACITY, plugin_config=on)
    assert lint_onnx(tmp_path / "on.onnx") == []
    found = logits_of(tmp_path / "on.onnx", config, tokens)
    if quant is None:  # without plugins, every family's network is held to the same logits in tests/families
        expected = model(tokens, use_cache=False).logits
    else:
        export_onnx(config, checkpoint.rank(0), tmp_path / "off.onnx", capacity=CAPACITY, plugin_config=off)
        assert plugin_nodes(tmp_path / "off.onnx") == []
        expected = logits_of(tmp_path / "off.onnx", config, tokens)
    spread = float(expected.max() - expected.min())
    assert float((found - expected).abs().max()) <= 1e-4 * spread  # float32 in another order of summation
    kinds = set(plugin_nodes(tmp_path / "on.onnx"))
    assert op_type in kinds
    assert kinds <= {op_type, "DenseMatMulBias"}
