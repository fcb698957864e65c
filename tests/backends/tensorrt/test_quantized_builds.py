"""Every quantized checkpoint through the whole build: networks follow the parser's rules and compute the definition.

The very ONNX that TensorRT parses runs on ONNX Runtime, FP8 included: its CPU kernels quantize and dequantize FP8.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tests.backends.models import RandomModel, random_model
from tests.backends.quantized_models import (
    IMPORTED,
    MIXED,
    RECIPES,
    defined_logits,
    imported_checkpoint,
    quantized_checkpoint,
)
from tests.backends.tensorrt import build_case
from tests.backends.tensorrt.simulation import plan_parts

from trtbench_lab.backends.tensorrt import builder as builder_module
from trtbench_lab.backends.tensorrt.gpu import Gpu
from trtbench_lab.backends.tensorrt.resolution import resolve
from trtbench_lab.checkpoint import open_checkpoint
from trtbench_lab.errors import BuildError
from trtbench_lab.network.onnx_lint import lint_onnx
from trtbench_lab.specs import BuildConfig, PluginConfig

PRODUCTS = {
    "awq": ("Mul", "Int4MatMul"),
    "gptq with zeros": ("Int4ZeroMatMul",),
    "w4a8": ("Fp8Round", "Int4MatMul"),
    "smooth": ("Int8StaticMatMul",),
    "smooth channel": ("Int8StaticMatMul",),
    "smooth channel token": ("QuantizePerToken", "SmoothQuantGemm"),
    "fp8": ("Fp8StaticMatMul",),
    "gptq sorted": ("Gather", "Int4ZeroMatMul"),
    "int8 groups with zeros": ("Int8GroupZeroMatMul",),
    "fp8 channel token": ("Fp8TokenMatMul",),
}
"""Recipe → the nodes that its layers are made of; weights without zero points and factors are in test_builder."""
TOKENS = torch.randint(0, 97, (1, 6), generator=torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def _no_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registering plugins compiles kernels; tests of plugins hold that to the real bindings."""
    monkeypatch.setattr(builder_module, "register_plugins", lambda options: None)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RandomModel:
    """Layers of 64 and 128 inputs: blocks of 64 that TensorRT multiplies itself."""
    return random_model("llama", tmp_path_factory.mktemp("hf"), intermediate_size=128, num_hidden_layers=2)


def written(model: RandomModel, folder: Path, recipe: str) -> Path:
    quantization = MIXED if recipe == "mixed" else dict({**RECIPES, **IMPORTED}[recipe])
    if "group_size" in quantization:
        quantization["group_size"] = 64
    write = imported_checkpoint if recipe in IMPORTED else quantized_checkpoint
    write(model, folder / "checkpoint", quantization)
    return folder / "checkpoint"


def logits_of(proto: onnx.ModelProto, folder: Path) -> torch.Tensor:
    """Run a network of TensorRT's on ONNX Runtime; plugins are their functions."""
    options = onnxruntime.SessionOptions()
    # By default it fuses dequantization and product into one that rounds the activations to 8 bits.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    # Its optimizer takes pairs of FP8 for pairs of INT8 and makes a node that it then refuses itself.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {"input_ids": TOKENS.numpy(), "write_indices": np.zeros(1, np.int64), "logit_indices": np.arange(6)[None]}
    for value in session.get_inputs():
        if value.name.startswith("past_"):
            feeds[value.name] = np.zeros([1, *value.shape[1:]], np.float32)
    (logits,) = session.run(["logits"], feeds)
    return torch.from_numpy(logits)


@pytest.mark.parametrize("recipe", [*PRODUCTS, "mixed"])
def test_networks_are_parseable_and_compute_the_definition(recorder, model, recipe, tmp_path, monkeypatch):
    checkpoint = written(model, tmp_path, recipe)
    plugins = PluginConfig(weight_only_groupwise_quant_matmul_plugin="auto")
    done = build_case.build(checkpoint, tmp_path / "engine", monkeypatch, plugin_config=plugins)
    _, proto = plan_parts((tmp_path / "engine" / "rank0.engine").read_bytes())
    assert lint_onnx(proto) == []
    nodes = [node.op_type for node in proto.graph.node]
    layers = 5 * done.config.num_hidden_layers  # qkv, dense, fc, gate, proj
    for name in PRODUCTS.get(recipe, ()):
        assert nodes.count(name) >= layers, name
    expected, got = defined_logits(model, checkpoint, TOKENS), logits_of(proto, tmp_path)
    span = expected.max() - expected.min()
    # Another order of sums; where an input lies between two steps, the last bit decides, which moves logits by 1e-3.
    assert (got - expected).abs().max() <= 1e-2 * span
    assert (got - expected).abs().median() <= 1e-4 * span


@pytest.mark.parametrize("recipe", ["smooth token", "smooth"])
def test_smoothquant_by_the_other_form(recorder, model, recipe, tmp_path, monkeypatch):
    """Scales a token by Q/DQ with the scale 1, and static ones by the plugins, when the options say so."""
    checkpoint = written(model, tmp_path, recipe)
    plugin = "disable" if recipe == "smooth token" else "float32"
    plugins = PluginConfig(smooth_quant_gemm_plugin=plugin)
    done = build_case.build(checkpoint, tmp_path / "engine", monkeypatch, plugin_config=plugins)
    _, proto = plan_parts((tmp_path / "engine" / "rank0.engine").read_bytes())
    assert lint_onnx(proto) == []
    nodes = [node.op_type for node in proto.graph.node]
    if recipe == "smooth token":
        assert nodes.count("Int8TokenMatMul") == 10
        assert any("outside of TensorRT's INT8 layers" in note for note in done.notes)
    else:
        assert nodes.count("QuantizeTensor") == nodes.count("SmoothQuantGemm") == 10
    expected, got = defined_logits(model, checkpoint, TOKENS), logits_of(proto, tmp_path)
    assert (got - expected).abs().median() <= 1e-4 * (expected.max() - expected.min())


def test_fp8_needs_a_gpu_that_has_it(model, tmp_path):
    config = open_checkpoint(written(model, tmp_path, "fp8")).config
    with pytest.raises(BuildError, match=r"8\.9 or later"):
        resolve(config, BuildConfig(), Gpu("NVIDIA A100", 80, "580.65.06"))
