"""Quantized engines against Hugging Face with the weights that the integers stand for, computed here with NumPy."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from tests.backends.models import Driver, built_executor, random_model

from trtbench_lab.quantization import quantize_checkpoint
from trtbench_lab.specs import BuildConfig, QuantConfig

ALGOS = [("W8A16", None), ("W8A16", 32), ("W4A16", None), ("W4A16", 32), ("W4A16", 128)]


def restored(weight: torch.Tensor, bits: int, group_size: int | None) -> torch.Tensor:
    """What a weight (out, in) is after weight-only quantization, in NumPy from the definition."""
    array = weight.numpy().astype(np.float32)
    grouped = array.reshape(array.shape[0], -1, group_size or array.shape[1])
    top = 2 ** (bits - 1)
    scale = np.abs(grouped).max(-1, keepdims=True) / np.float32(top)
    return torch.from_numpy((np.clip(np.rint(grouped / scale), -top, top - 1) * scale).reshape(array.shape))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A GPT-2 of one layer of width 32 (MLP 128): wide enough for one group of 32, and of 128 in one layer."""
    return random_model("gpt2", tmp_path_factory.mktemp("model"), n_embd=32, n_layer=1)


def reference_logits(model, tokens, bits, group_size, quantized):
    """Logits of the Hugging Face model with dequantized weights; its head is untied first."""
    hf = copy.deepcopy(model.hf)
    hf.lm_head.weight = torch.nn.Parameter(restored(hf.lm_head.weight.detach(), bits, group_size))
    for block in hf.transformer.h:
        for layer in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
            if layer.weight.shape[0] in quantized:  # Conv1D keeps (in, out)
                layer.weight.data = restored(layer.weight.detach().t().contiguous(), bits, group_size).t()
    with torch.no_grad():
        return hf(tokens, use_cache=False).logits


TOKENS = torch.randint(0, 97, (2, 8), generator=torch.Generator().manual_seed(0))


def quantization_of(algo: str, group_size: int | None) -> tuple[QuantConfig, set[int]]:
    """The configuration, and the input widths of the layers it quantizes."""
    if group_size in (64, 128):  # only mlp.proj has so many inputs
        others = ("qkv", "dense", "fc", "lm_head")
        return QuantConfig(quant_algo=algo, group_size=group_size, exclude_modules=others), {128}
    return QuantConfig(quant_algo=algo, group_size=group_size, exclude_modules=()), {32, 128}


@pytest.mark.parametrize(("algo", "group_size"), ALGOS)
@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_exact_engines_compute_the_definition(model, backend, algo, group_size, tmp_path):
    quantization, widths = quantization_of(algo, group_size)
    quantize_checkpoint(model.folder, tmp_path / "checkpoint", quantization)
    config = BuildConfig(opt_level=0)
    executor = built_executor(backend, "cpu", tmp_path / "checkpoint", tmp_path / "engine", config)
    driver = Driver(executor, batch=2, capacity=8)
    got = torch.cat([driver.step(TOKENS[:, :5]), driver.step(TOKENS[:, 5:6]), driver.step(TOKENS[:, 6:])], 1)
    bits = 8 if algo == "W8A16" else 4
    if 32 in widths:
        expected = reference_logits(model, TOKENS, bits, group_size, widths)
    else:
        hf = copy.deepcopy(model)
        for block in hf.hf.transformer.h:
            weight = block.mlp.c_proj.weight
            weight.data = restored(weight.detach().t().contiguous(), bits, group_size).t()
        expected = hf.logits(TOKENS)
    # The same products, summed in another order: as for dense layers, 1e-4 of the range.
    assert float((got - expected).abs().max()) <= 1e-4 * float(expected.max() - expected.min())


@pytest.mark.parametrize(("algo", "group_size"), [("W8A16", None), ("W4A16", 32)])
def test_fast_engines_stay_near_the_definition(model, algo, group_size, tmp_path):
    """Activations rounded to 8 bits a block of 32: each product is off by at most 1/254 of the block's largest input.

    Over a layer and the head of random weights that comes to 1-2 % of the range; 5 % would mean a wrong scale.
    """
    quantization, widths = quantization_of(algo, group_size)
    quantize_checkpoint(model.folder, tmp_path / "checkpoint", quantization)
    executor = built_executor("onnxruntime", "cpu", tmp_path / "checkpoint", tmp_path / "engine")
    got = Driver(executor, batch=2, capacity=8).step(TOKENS)
    expected = reference_logits(model, TOKENS, 8 if algo == "W8A16" else 4, group_size, widths)
    error = float((got - expected).abs().max()) / float(expected.max() - expected.min())
    assert 0 < error < 0.05
    agreement = (got.argmax(-1) == expected.argmax(-1)).float().mean()
    assert agreement >= 0.9


def test_packed_weights_are_what_the_engine_file_holds(model, tmp_path):
    """Two weights a byte, in every layer and the head: nothing dense is left but tables, norms and biases."""
    quantize_checkpoint(model.folder, tmp_path / "checkpoint", QuantConfig(quant_algo="W4A16", exclude_modules=()))
    built_executor("onnxruntime", "cpu", tmp_path / "checkpoint", tmp_path / "engine")
    graph = onnx.load(str(tmp_path / "engine" / "rank0.engine"), load_external_data=False).graph
    shapes = {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMulNBits"]
    assert len(products) == 4 + 1
    for node in products:
        dtype, shape = shapes[node.input[1]]
        sizes = {attribute.name: attribute.i for attribute in node.attribute}
        assert dtype == onnx.TensorProto.UINT8
        assert np.prod(shape) == sizes["N"] * sizes["K"] // 2
    assert not any(node.op_type == "MatMul" for node in graph.node)
