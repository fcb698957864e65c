"""The matrix plugins in their four forms: reference, kernel in the interpreter, ONNX function, compiled kernel."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plugins import forms

from trtbench_lab.errors import SpecError
from trtbench_lab.plugins.frame import Plugin, function_source
from trtbench_lab.plugins.frame.onnx_form import FUNCTION_VERSION, OPSET, node_attributes
from trtbench_lab.plugins.frame.ptx import parse_entry
from trtbench_lab.plugins.matmul.plugins import (
    FP8_MATMUL,
    GEMM,
    GEMM_BIAS,
    INT4_PRODUCTS,
    INT8_PRODUCTS,
    ONNX_OF_TORCH,
    PLUGINS,
    SMOOTH_QUANT_GEMM,
    weight_only_plugin,
)
from trtbench_lab.plugins.registry import all_plugins
from trtbench_lab.quantization.weight_only import WeightOnlyScheme

GROUP = 32
# Sums in another order, of INT4 weights met as 1 + q / 256; in 16 bits one rounding of the result and one of each
# weight. Relative to the whole.
BOUNDS = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def inputs(
    plugin: Plugin,
    shape: tuple[int, ...],
    out_features: int,
    dtype: torch.dtype,
    seed: int = 0,
    group_size: int = GROUP,
    per_token: int = 1,
):
    generator = torch.Generator().manual_seed(seed)
    in_features = shape[-1]
    grouped = "group_size" in plugin.attributes

    def bytes_(*size: int) -> torch.Tensor:
        return torch.randint(-128, 128, size, generator=generator, dtype=torch.int8)

    def floats(*size: int) -> torch.Tensor:
        return torch.rand(*size, generator=generator)

    made = {
        "x": torch.randn(*shape, generator=generator).to(dtype),
        "weight": torch.randn(out_features, in_features, generator=generator).to(dtype),
        "bias": torch.randn(out_features, generator=generator).to(dtype),
        "scale": (0.01 + floats(out_features, *([in_features // group_size] if grouped else []))).to(dtype),
        "zero": torch.randint(-8, 8, (out_features, in_features // group_size), generator=generator, dtype=torch.int8),
        "pre_scale": (0.5 + floats(in_features)).to(dtype),
        "x_scale": 0.01 + 0.01 * floats(*shape[:-1], 1) if per_token else torch.tensor([0.015]),
        "weight_scale": 0.01 * floats(out_features),
        "input_scale": torch.tensor([0.02]),
    }
    if plugin in INT8_PRODUCTS.values() or plugin is SMOOTH_QUANT_GEMM:
        made["weight"] = bytes_(out_features, in_features)
    elif plugin in INT4_PRODUCTS.values():
        made["weight"] = bytes_(out_features, in_features // 2)
    elif plugin is FP8_MATMUL:
        made["weight"], made["weight_scale"] = made["weight"].to(torch.float8_e4m3fn), torch.tensor([0.5])
    if plugin is SMOOTH_QUANT_GEMM:
        made["x"] = bytes_(*shape)
    output_type = ONNX_OF_TORCH[str(dtype).removeprefix("torch.")]
    attributes = {"group_size": group_size, "per_token": per_token, "output_type": output_type}
    return [made[name] for name in plugin.inputs], {name: attributes[name] for name in plugin.attributes}


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 64), (1, 96)], ids=str)
def test_the_kernel_is_the_reference(plugin, dtype, shape):
    tensors, attributes = inputs(plugin, shape, 19, dtype)
    (expected,) = forms.by_reference(plugin, tensors, attributes)
    assert distance(forms.by_kernel(plugin, tensors, attributes)[0], expected) < BOUNDS[dtype]
    assert torch.equal(forms.by_torch_op(plugin, tensors, attributes)[0], expected)


every_plugin = pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)


@every_plugin
@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    lead=st.lists(st.integers(1, 4), min_size=1, max_size=2),
    groups=st.integers(1, 3),
    group_size=st.sampled_from((32, 64, 128)),
    out_features=st.integers(1, 70),
    dtype=st.sampled_from(list(BOUNDS)),
    per_token=st.sampled_from((0, 1)),
    seed=st.integers(0, 99),
)
def test_forms_agree_over_drawn_shapes(plugin, lead, groups, group_size, out_features, dtype, per_token, seed):
    """Rows of one and more dimensions, widths of whole groups, outputs that fill no tile; the function where NumPy
    has the types."""
    shape = (*lead, groups * group_size)
    tensors, attributes = inputs(plugin, shape, out_features, dtype, seed, group_size, per_token)
    (expected,) = forms.by_reference(plugin, tensors, attributes)
    assert distance(forms.by_kernel(plugin, tensors, attributes)[0], expected) < BOUNDS[dtype]
    assert torch.equal(forms.by_torch_op(plugin, tensors, attributes)[0], expected)
    if plugin is not FP8_MATMUL and dtype is not torch.bfloat16:
        assert distance(forms.by_onnx_function(plugin, tensors, attributes)[0], expected) < BOUNDS[dtype]


@pytest.mark.parametrize("plugin", [one for one in PLUGINS if one is not FP8_MATMUL], ids=lambda plugin: plugin.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_function_is_the_reference(plugin, dtype):
    tensors, attributes = inputs(plugin, (2, 3, 64), 19, dtype)
    (expected,) = forms.by_reference(plugin, tensors, attributes)
    assert distance(forms.by_onnx_function(plugin, tensors, attributes)[0], expected) < BOUNDS[dtype]


def test_the_function_of_fp8_is_the_reference():
    """Its weight is an initializer: NumPy has no such type to feed."""
    tensors, _ = inputs(FP8_MATMUL, (3, 64), 19, torch.float32)
    x, weight, input_scale, weight_scale = tensors
    kind = onnx.TensorProto
    stored = onnx.helper.make_tensor(
        "weight", kind.FLOAT8E4M3FN, weight.shape, weight.view(torch.uint8).numpy().tobytes(), raw=True
    )
    node = onnx.helper.make_node(
        FP8_MATMUL.op_type, list(FP8_MATMUL.inputs), ["y"], domain="trtbench", **node_attributes(FP8_MATMUL)
    )
    values = {"x": x, "input_scale": input_scale, "weight_scale": weight_scale}
    graph = onnx.helper.make_graph(
        [node],
        "call",
        [onnx.helper.make_tensor_value_info(name, kind.FLOAT, one.shape) for name, one in values.items()],
        [onnx.helper.make_tensor_value_info("y", kind.FLOAT, (3, 19))],
        [stored],
    )
    model = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid("trtbench", FUNCTION_VERSION)],
        functions=[onnx.parser.parse_function(function_source(FP8_MATMUL))],
        ir_version=11,
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: one.numpy() for name, one in values.items()})
    (expected,) = forms.by_reference(FP8_MATMUL, tensors, {})
    assert distance(torch.from_numpy(np.asarray(found)), expected) < BOUNDS[torch.float32]


@every_plugin
def test_the_kernel_compiles_without_a_gpu(plugin):
    tensors, attributes = inputs(plugin, (4, 128), 64, torch.float16)
    capability = 90
    for tactic in plugin.tactics(attributes)[:1]:
        compiled = forms.compiled(plugin, tensors, attributes, capability, tactic=tactic)
        # TensorRT passes the inputs, the plan's integers and the outputs, in this order, and nothing else.
        assert parse_entry(compiled.ptx).types == ["u64"] * len(plugin.inputs) + ["u32"] + ["u64"]
        assert f".target sm_{capability}" in compiled.ptx
        assert compiled.launch.arguments == {"rows": 4}


def test_integers_are_summed_exactly():
    """More than float32 holds: 1024 products of 127 · 127 and one of 1."""
    x = torch.full((1, 1088), 127, dtype=torch.int8)
    x[0, 0] = 1
    weight = torch.full((17, 1088), 127, dtype=torch.int8)
    weight[:, 0] = 1
    one = torch.ones(1)
    for found in (
        SMOOTH_QUANT_GEMM.launch(x, weight, one.view(1, 1), one, per_token=1, output_type=1),
        SMOOTH_QUANT_GEMM.launch(x, weight, one, one, per_token=0, output_type=1),
        SMOOTH_QUANT_GEMM(x, weight, one, one, per_token=0, output_type=1),
    ):
        assert torch.equal(found, torch.full((1, 17), float(1087 * 127 * 127 + 1)))


def test_which_plugin_multiplies_which_weights():
    assert weight_only_plugin(WeightOnlyScheme(8), 36).op_type == "Int8ChannelProduct"
    assert weight_only_plugin(WeightOnlyScheme(4, 32), 64).op_type == "Int4GroupProduct"
    assert weight_only_plugin(WeightOnlyScheme(4), 36) is None
    assert all_plugins()["gemm"] is GEMM


def test_types_that_do_not_match_are_told():
    with pytest.raises(SpecError, match="types"):
        GEMM.launch(torch.zeros(2, 32), torch.zeros(4, 32).half())


@pytest.mark.parametrize(
    ("plugin", "tensors", "attributes", "told"),
    [
        (GEMM, (torch.zeros(2, 32), torch.zeros(4, 30)), {}, "weight has the extents"),
        (GEMM_BIAS, (torch.zeros(2, 32), torch.zeros(4, 32), torch.zeros(1)), {}, "bias has the extents"),
        (
            INT4_PRODUCTS["channel"],
            (torch.zeros(2, 36), torch.zeros(4, 18, dtype=torch.int8), torch.ones(4)),
            {},
            "a multiple of 8 of these",  # the last word would be left out
        ),
        (
            INT4_PRODUCTS["group"],
            (torch.zeros(1, 96), torch.zeros(4, 48, dtype=torch.int8), torch.ones(4, 2)),
            {"group_size": 48},
            "groups of a multiple of 32",  # a thread reads 32 elements of one row at once
        ),
        (
            INT8_PRODUCTS["group"],
            (torch.zeros(2, 96), torch.zeros(4, 96, dtype=torch.int8), torch.ones(4)),
            {"group_size": 32},
            "scale has the extents",
        ),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else None,
)
def test_tensors_that_do_not_belong_together_are_told(plugin, tensors, attributes, told):
    """The kernels would read beyond their ends, where the definitions of torch say so or broadcast."""
    with pytest.raises(SpecError, match=told):
        plugin.launch(*tensors, **attributes)
