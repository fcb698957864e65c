"""Every family's network with its plugins' nodes, on ONNX Runtime, which runs their functions: the logits stay HF's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from trtbench_lab.checkpoint import config_from_source, convert, open_checkpoint
from trtbench_lab.checkpoint.source import MemorySource
from trtbench_lab.families import Family, all_families
from trtbench_lab.network.export import export_onnx
from trtbench_lab.network.onnx_lint import lint_onnx
from trtbench_lab.specs import ModelConfig, PluginConfig

from . import tiny
from .test_parity import model_of

CAPACITY = 24
ON = PluginConfig(
    gpt_attention_plugin="disable", rmsnorm_plugin="auto", layernorm_plugin="auto", swiglu_plugin="auto"
)


def logits_of(path: Path, config: ModelConfig, tokens: torch.Tensor) -> torch.Tensor:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # caches that are not bound in place are copied, with a warning
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    cache = np.zeros((tokens.shape[0], config.kv_heads, CAPACITY, config.head_width), np.float32)
    feeds = {one.name: cache for one in session.get_inputs() if one.name.startswith("past_")}
    feeds["input_ids"] = tokens.numpy()
    feeds["write_indices"] = np.zeros(tokens.shape[0], np.int64)
    feeds["logit_indices"] = np.tile(np.arange(tokens.shape[1]), (tokens.shape[0], 1))
    return torch.from_numpy(np.asarray(session.run(["logits"], feeds)[0]))


def plugin_nodes(path: Path) -> list[str]:
    onnx.checker.check_model(str(path))
    model = onnx.load(str(path), load_external_data=False)
    found = []
    for node in model.graph.node:
        values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        if "plugin_namespace" in values:
            assert (values["plugin_namespace"], values["plugin_version"], values["aot"]) == (b"trtbench", b"1", 1)
            found.append(node.op_type)
    return found


@pytest.mark.parametrize("family", all_families(), ids=lambda family: family.name)
@torch.no_grad()
def test_plugins_change_nothing_but_the_nodes(family: Family, tmp_path: Path) -> None:
    values, tensors, model = model_of(family)
    source = MemorySource(values, tensors)
    convert(source, tmp_path / "checkpoint", config=config_from_source(source, "float32"))
    checkpoint = open_checkpoint(tmp_path / "checkpoint")
    config = checkpoint.config
    tokens = torch.randint(0, tiny.VOCAB, (2, 20), generator=torch.Generator().manual_seed(3))
    theirs = model(tokens, use_cache=False).logits
    spread = float(theirs.max() - theirs.min())
    for plugins, path in ((None, tmp_path / "off.onnx"), (ON, tmp_path / "on.onnx")):
        export_onnx(config, checkpoint.rank(0), path, capacity=CAPACITY, plugin_config=plugins)
        assert lint_onnx(path) == []
        # float32 in another order of summation was seen to differ by 1e-6 of the range; a wrong term by 1e-2 and more
        assert float((logits_of(path, config, tokens) - theirs).abs().max()) <= 1e-4 * spread
    norm = "RmsNorm" if config.norm_type == "rmsnorm" else "LayerNorm"
    expected = {norm: 1, f"Add{norm}": 2 * config.num_hidden_layers, "SwiGlu": 2 * config.gated_mlp}
    assert plugin_nodes(tmp_path / "off.onnx") == []
    found = plugin_nodes(tmp_path / "on.onnx")
    assert {kind: found.count(kind) for kind in expected} == expected
