"""Calibrated checkpoints: what they hold, that ranks cut one model, and that nothing half-made is left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.backends.models import random_model

from trtbench_lab.calibration import calibration_tokens, quantize_model
from trtbench_lab.calibration import checkpoint as room
from trtbench_lab.checkpoint import expected_tensors, open_checkpoint
from trtbench_lab.errors import QuantizationError, StorageError
from trtbench_lab.quantization.joining import whole_from_ranks
from trtbench_lab.quantization.reference import layer_output
from trtbench_lab.specs import Mapping, QuantConfig

AWQ = {"quant_algo": "W4A16_AWQ", "pre_quant_scale": True, "group_size": 32}
GPTQ = {"quant_algo": "W4A16_GPTQ", "has_zero_point": True, "group_size": 32}
SMOOTH = {"quant_algo": "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"}
STATIC = {"quant_algo": "W8A8_SQ_PER_TENSOR_PLUGIN"}
ALGORITHMS = {
    "awq": AWQ, "w4a8": {**AWQ, "quant_algo": "W4A8_AWQ"}, "gptq": GPTQ, "smooth": SMOOTH, "static": STATIC,
    "fp8": {"quant_algo": "FP8"}, "fp8 with cache": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
    "weights and cache": {"quant_algo": "W8A16", "kv_cache_quant_algo": "INT8"},
    "cache": {"kv_cache_quant_algo": "INT8"}, "awq with head": {**AWQ, "exclude_modules": ()},
}  # fmt: skip
TOKENS = calibration_tokens(
    torch.randint(0, 97, (8, 16), generator=torch.Generator().manual_seed(0)).tolist(), size=8, length=16
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """Heads of 16, an MLP of 64: groups of 32 fit on two ranks."""
    return random_model("llama", tmp_path_factory.mktemp("llama"), intermediate_size=64, num_hidden_layers=2)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return random_model("gpt2", tmp_path_factory.mktemp("gpt2"), n_layer=2)


def quantize(model, folder, quantization: dict[str, Any], **options: Any):
    return quantize_model(model.folder, folder, QuantConfig(**quantization), TOKENS, **options)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_writes_what_its_layout_says(llama, name: str, tmp_path):
    report = quantize(llama, tmp_path / "out", ALGORITHMS[name])
    checkpoint = open_checkpoint(tmp_path / "out", verify=True)
    tensors = checkpoint.rank(0)
    for tensor, (shape, dtype) in expected_tensors(checkpoint.config).items():
        assert tuple(tensors[tensor].shape) == shape
        assert str(tensors[tensor].dtype) == f"torch.{dtype}"
        assert bool(torch.isfinite(tensors[tensor].float()).all())
    algo = checkpoint.config.quantization.quant_algo
    layers = 2 * 5 + ("head" in name) if algo else 0
    assert len(report.layers) == layers
    assert report.calibration == TOKENS.to_dict()
    assert set(report.kv_cache) == ({0, 1} if "cache" in name else set())
    bounds = {"W4A16_AWQ": 0.2, "W4A8_AWQ": 0.2, "W4A16_GPTQ": 0.2, "FP8": 0.06}
    for layer in report.layers:  # of 3, 4 and 8 bits; 0.03 is a tenth of a step in each of many terms
        assert 0 < layer.output_relative_error < bounds.get(str(algo), 0.03), layer


@pytest.mark.parametrize("name", ["awq", "w4a8", "gptq", "smooth", "static", "fp8 with cache"])
@pytest.mark.parametrize("mapping", [Mapping(tp_size=2), Mapping(pp_size=2)])
def test_ranks_cut_one_and_the_same_model(llama, name: str, mapping: Mapping, tmp_path):
    quantize(llama, tmp_path / "one", ALGORITHMS[name])
    quantize(llama, tmp_path / "two", ALGORITHMS[name], mapping=mapping)
    one, two = open_checkpoint(tmp_path / "one"), open_checkpoint(tmp_path / "two")
    from trtbench_lab.checkpoint.layout import whole_tensors

    for tensor in whole_tensors(one.config):
        whole = whole_from_ranks(two, tensor)
        assert torch.equal(whole[: tensor.shape[0]].float(), one.rank(0)[tensor.name].float()), tensor.name


def test_the_same_inputs_give_the_same_files(gpt2, tmp_path):
    for name in ("first", "second"):
        quantize(gpt2, tmp_path / name, AWQ)
    first, second = (tmp_path / name / "rank0.safetensors" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("name", ["smooth", "static"])
def test_smoothing_is_folded_into_the_norm(family: str, name: str, request, tmp_path):
    """Norm, then layer, gives what Hugging Face's norm and layer give; the norm itself has changed."""
    model = request.getfixturevalue(family)
    quantize(model, tmp_path / "out", ALGORITHMS[name])
    tensors = open_checkpoint(tmp_path / "out").rank(0)
    x = torch.randn(40, 64, generator=torch.Generator().manual_seed(1)) * 3
    layer = "transformer.layers.0"
    with torch.no_grad():
        if family == "gpt2":
            block = model.hf.transformer.h[0]
            norm = torch.nn.functional.layer_norm(
                x, (64,), tensors[f"{layer}.post_layernorm.weight"], tensors[f"{layer}.post_layernorm.bias"],
                block.ln_2.eps,
            )  # fmt: skip
            expected = block.mlp.c_fc(block.ln_2(x)) - block.mlp.c_fc.bias
            original = block.ln_2.weight
        else:
            block = model.hf.model.layers[0]
            eps = block.post_attention_layernorm.variance_epsilon
            norm = torch.nn.functional.rms_norm(x, (64,), tensors[f"{layer}.post_layernorm.weight"], eps)
            expected = block.mlp.gate_proj(block.post_attention_layernorm(x))
            original = block.post_attention_layernorm.weight
    held = {key.rpartition(".")[2]: tensors[key] for key in tensors if key.startswith(f"{layer}.mlp.fc.")}
    algo = open_checkpoint(tmp_path / "out").config.quantization.quant_algo
    got = layer_output(norm, held, algo)
    assert float((got - expected).norm() / expected.norm()) < 0.1  # static steps of other text saturate a little
    assert not torch.allclose(tensors[f"{layer}.post_layernorm.weight"], original, rtol=0.05)


def test_an_excluded_layer_keeps_its_norm(llama, tmp_path):
    quantize(llama, tmp_path / "out", {**SMOOTH, "exclude_modules": ("mlp.gate", "lm_head")})
    tensors = open_checkpoint(tmp_path / "out").rank(0)
    block = llama.hf.model.layers[1]
    layer = "transformer.layers.1"
    assert torch.equal(tensors[f"{layer}.post_layernorm.weight"], block.post_attention_layernorm.weight)
    assert torch.equal(tensors[f"{layer}.mlp.gate.weight"], block.mlp.up_proj.weight)
    assert tensors[f"{layer}.mlp.fc.weight"].dtype == torch.int8
    assert not torch.equal(tensors[f"{layer}.input_layernorm.weight"], block.input_layernorm.weight)


def test_faults_leave_nothing_behind(llama, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with pytest.raises(QuantizationError, match="needs text to calibrate on"):
        quantize_model(llama.folder, out, QuantConfig(**AWQ))
    strange = calibration_tokens([[5, 97] * 8], size=1, length=16)
    with pytest.raises(QuantizationError, match="vocabulary has 97"):
        quantize_model(llama.folder, out, QuantConfig(**AWQ), strange)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room, "layer_error", fail)
    with pytest.raises(StorageError, match="disk is full"):
        quantize(llama, out, AWQ)
    monkeypatch.undo()
    assert not out.exists()
    quantize(llama, out, AWQ)
    with pytest.raises(StorageError):
        quantize(llama, out, AWQ)
    with pytest.raises(QuantizationError, match="quantized already"):
        quantize_model(out, tmp_path / "twice", QuantConfig(**AWQ), TOKENS)


def test_long_rows_do_not_fit_learned_positions(gpt2, tmp_path):
    long = calibration_tokens([[1] * 80], size=1, length=80)
    with pytest.raises(QuantizationError, match="longer than the model's 64"):
        quantize_model(gpt2.folder, tmp_path / "out", QuantConfig(**AWQ), long)
