"""Quantized engines against Hugging Face with the weights that the integers stand for, computed here with NumPy."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from tests.backends.models import PADDED, Driver, built_executor, random_model

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


@pytest.mark.parametrize(
    ("algo", "group_size", "prompt", "level"),
    [
        ("W8A16", None, 8, 3),
        ("W8A16", None, 20, 4),
        ("W4A16", 32, 8, 3),
        ("W4A16", None, 8, 3),
        ("W4A16", None, 20, 3),
        ("W8A16", 32, 20, 3),
    ],
)
def test_fast_engines_stay_near_the_definition(model, algo, group_size, prompt, level, tmp_path):
    """Activations rounded to 8 bits a token, or a block of 32: each is off by at most 1/254 of the largest there.

    Over a layer and the head of random weights that comes to 1-2 % of the range; 5 % would mean a wrong scale. From 16
    new tokens on 4-bit weights a channel, and 8-bit ones at level 4, are multiplied by the prompt network.
    """
    quantization, widths = quantization_of(algo, group_size)
    quantize_checkpoint(model.folder, tmp_path / "checkpoint", quantization)
    config = PADDED.replace(opt_level=level)
    executor = built_executor("onnxruntime", "cpu", tmp_path / "checkpoint", tmp_path / "engine", config)
    tokens = torch.randint(0, 97, (1, prompt + 4), generator=torch.Generator().manual_seed(1))
    driver = Driver(executor, batch=1, capacity=prompt + 4)
    got = torch.cat(
        [driver.step(tokens[:, :prompt]), *(driver.step(token) for token in tokens[:, prompt:].split(1, 1))], 1
    )
    expected = reference_logits(model, tokens, 8 if algo == "W8A16" else 4, group_size, widths)
    error = float((got - expected).abs().max()) / float(expected.max() - expected.min())
    assert 0 < error < 0.05
    agreement = (got.argmax(-1) == expected.argmax(-1)).float().mean()
    assert agreement >= 0.9


@pytest.mark.parametrize(("algo", "level"), [("W8A16", 3), ("W8A16", 4), ("W4A16", 3)])
def test_rows_of_a_batch_do_not_see_each_other(model, algo, level, tmp_path):
    """Activations are rounded by scales of their own token: alone and beside a row of large values, bit for bit."""
    quantize_checkpoint(model.folder, tmp_path / "checkpoint", QuantConfig(quant_algo=algo, exclude_modules=()))
    config = PADDED.replace(opt_level=level)
    executor = built_executor("onnxruntime", "cpu", tmp_path / "checkpoint", tmp_path / "engine", config)
    tokens = torch.randint(0, 97, (4, 17), generator=torch.Generator().manual_seed(2))
    together = Driver(executor, batch=4, capacity=17)
    batch = [together.step(tokens[:, :16]), together.step(tokens[:, 16:])]
    for row in range(4):
        alone = Driver(executor, batch=1, capacity=17)
        for part, expected in zip((tokens[row : row + 1, :16], tokens[row : row + 1, 16:]), batch, strict=True):
            torch.testing.assert_close(alone.step(part), expected[row : row + 1], rtol=0, atol=2e-6)


def test_zero_inputs_give_zero(tmp_path):
    """A row of zeros has no scale; its product is 0 all the same, and not NaN."""
    import onnx_ir as ir
    import onnxruntime

    from trtbench_lab.backends.onnxruntime.integer_product import use_integers
    from trtbench_lab.network.export import ExportedNetwork
    from trtbench_lab.network.linear import Linear
    from trtbench_lab.quantization.linear_kinds import LinearKind
    from trtbench_lab.quantization.weight_only import WeightOnlyScheme, dequantize, quantize

    scheme = WeightOnlyScheme(8)
    dense = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    packed, scales = quantize(dense, scheme)
    x = ir.Value(name="x", shape=ir.Shape(["rows", 32]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("Int8MatMul", [x], name="layer")
    node.outputs[0].name = "y"
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 24, "com.microsoft": 1})
    network = ExportedNetwork(ir.Model(graph, ir_version=11), {}, (), {})
    linear = Linear(32, 6, bias=False, kind=LinearKind(QuantConfig(quant_algo="W8A16")))
    use_integers(node, network, "layer", linear)
    network.write(tmp_path / "m.onnx", {"layer.weight": packed, "layer.per_channel_scale": scales})
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    rows = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    rows[1] = 0
    (got,) = session.run(None, {"x": rows.numpy()})
    assert np.all(got[1] == 0)
    # Half a step of 1/127 of the row's largest input, on 32 products: at most 32 · max|w| · max|x| / 254.
    bound = 32 * float(dense.abs().max()) * rows.abs().amax(1, keepdim=True) / 254
    error = (torch.from_numpy(got) - rows @ dequantize(packed, scales, scheme).t()).abs()
    assert bool((error <= bound).all())
    assert float(error.max()) > 0


@pytest.mark.parametrize(("algo", "level"), [("W4A16", 3), ("W8A16", 4)])
def test_a_lower_level_holds_no_second_copy(model, algo, level, tmp_path):
    quantize_checkpoint(model.folder, tmp_path / "checkpoint", QuantConfig(quant_algo=algo, exclude_modules=()))
    for number, expected in ((level - 1, False), (level, True)):
        folder = tmp_path / f"level {number}"
        built_executor("onnxruntime", "cpu", tmp_path / "checkpoint", folder, BuildConfig(opt_level=number))
        assert (folder / "rank0.prompt.engine").is_file() is expected
        graph = onnx.load(str(folder / "rank0.engine"), load_external_data=False).graph
        products = [node.op_type for node in graph.node]
        packed = algo == "W4A16" or expected
        assert products.count("MatMulNBits" if packed else "MatMulIntegerToFloat") == 4 + 1


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
