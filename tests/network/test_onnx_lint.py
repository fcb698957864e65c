"""The lint against graphs that TensorRT's parser refuses or misreads, one rule at a time."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from trtbench_lab.errors import BuildError
from trtbench_lab.network.onnx_lint import lint_onnx, require_parseable

F32, I64, BOOL, I4, I8, U8 = (
    TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.INT4, TensorProto.INT8, TensorProto.UINT8,
)  # fmt: skip


def model(nodes, inputs=(), outputs=(), initializers=(), functions=(), opset=24):
    """A model from nodes and (name, type, shape) triples."""

    def values(triples):
        return [helper.make_tensor_value_info(*triple) for triple in triples]

    graph = helper.make_graph(list(nodes), "g", values(inputs), values(outputs), initializer=list(initializers))
    opsets = [
        helper.make_opsetid("", opset),
        helper.make_opsetid("trtbench", 1),
        helper.make_opsetid("trtbench.trt", 1),
    ]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions))


def weight(name, dtype, shape, value=1):
    array = np.full(int(np.prod(shape)), value, dtype=np.float32)
    return helper.make_tensor(name, dtype, shape, array)


def rules(built, **options):
    return [finding.rule for finding in lint_onnx(built, **options)]


def messages(built):
    return " | ".join(finding.message for finding in lint_onnx(built))


QKV = [(name, F32, ["b", 4, length, 8]) for name, length in (("q", "t"), ("k", 16), ("v", 16))]


def attention(inputs, op_type="Attention", outputs=("y",), **attributes):
    domain = "" if op_type == "Attention" else "trtbench.trt"
    node = helper.make_node(op_type, inputs, list(outputs), name="attn", domain=domain, **attributes)
    extra = [(name, F32, None) for name in inputs[3:] if name]
    return model([node], [*QKV, *extra], [("y", F32, None)])


def test_a_plain_graph_passes():
    built = model(
        [helper.make_node("MatMul", ["a", "b"], ["c"])], [("a", F32, [2, 2]), ("b", F32, [2, 2])], [("c", F32, None)]
    )
    assert lint_onnx(built) == []
    require_parseable(built)


@pytest.mark.parametrize(("opset", "found"), [(8, ["opset"]), (9, []), (24, []), (25, ["opset"])])
def test_opset_versions(opset, found):
    built = model([helper.make_node("Relu", ["a"], ["b"])], [("a", F32, [1])], [("b", F32, [1])], opset=opset)
    assert rules(built) == found


@pytest.mark.parametrize(
    ("inputs", "attributes", "message"),
    [
        (["q", "k", "v", "", "pk", "pv"], {}, "past_key or past_value"),
        (["q", "k", "v", "", "", "", "lengths"], {}, "nonpad_kv_seqlen is ignored"),
        (["q", "k", "v"], {"is_causal": 1}, "aligned to the upper left"),
        (["q", "k", "v", "mask"], {"is_causal": 1}, "together with a mask is refused"),
        (["q", "k", "v", "mask"], {"softcap": 30.0}, "softcap"),
        (["q", "k", "v", "mask"], {"softmax_precision": 1}, "softmax_precision"),
    ],
)
def test_standard_attention(inputs, attributes, message):
    built = attention(inputs, **attributes)
    assert set(rules(built)) == {"attention"}
    assert message in messages(built)


def test_standard_attention_with_a_mask_alone_passes():
    assert rules(attention(["q", "k", "v", "mask"], scale=1.0)) == []


def test_standard_attention_gives_one_output():
    built = attention(["q", "k", "v"], outputs=("y", "present_key", "present_value"))
    assert "exactly one output" in messages(built)


@pytest.mark.parametrize(
    ("inputs", "attributes", "message"),
    [
        (["q", "k", "v", "mask"], {"causal_kind": "lower_right"}, "exclude each other"),
        (["q", "k", "v"], {"causal_kind": "causal"}, "does not exist"),
        (["q", "k", "v"], {"scale": 0.5}, "11.0's attributes"),
        (["q", "k", "v"], {"is_causal": 1}, "11.0's attributes"),
        (["q", "k", "v", "", "", "lengths"], {}, "unused tail"),
    ],
)
def test_tensorrts_attention(inputs, attributes, message):
    built = attention(inputs, "TRT_Attention", **attributes)
    assert set(rules(built)) == {"attention"}
    assert message in messages(built)


@pytest.mark.parametrize("kind", ["none", "upper_left", "lower_right"])
def test_tensorrts_attention_kinds(kind):
    assert rules(attention(["q", "k", "v"], "TRT_Attention", causal_kind=kind)) == []
    assert rules(attention(["q", "k", "v", "mask"], "TRT_Attention", causal_kind="none")) == []


def test_ranks_of_query_and_keys():
    node = helper.make_node("TRT_Attention", ["q", "k", "v"], ["y"], domain="trtbench.trt")
    built = model([node], [("q", F32, ["b", "t", 32]), *QKV[1:]], [("y", F32, None)])
    assert "differ in rank" in messages(built)


def cache_update(
    past="past", result="present", shape=("b", 2, 16, 8), dtype=F32, op_type="TRT_KVCacheUpdate", **attributes
):
    domain = "" if op_type == "TensorScatter" else "trtbench.trt"
    nodes = [helper.make_node(op_type, [past, "new", "at"], [result], name="update", domain=domain, **attributes)]
    if past != "past":
        nodes.insert(0, helper.make_node("Identity", ["past"], [past]))
    if result != "present":
        nodes.append(helper.make_node("Identity", [result], ["present"]))
    inputs = [("past", dtype, list(shape)), ("new", dtype, ["b", 2, "t", 8]), ("at", I64, ["b"])]
    return model(nodes, inputs, [("present", dtype, None)])


@pytest.mark.parametrize("op_type", ["TRT_KVCacheUpdate", "TensorScatter"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"past": "copy"}, "not an input of the network"),
        ({"result": "inner"}, "not an output of the network"),
        ({"shape": ("b", 2, "capacity", 8)}, "not a constant"),
        ({"shape": ("b", 16, 8)}, "four dimensions"),
        ({"dtype": TensorProto.INT8}, "float32, float16 or bfloat16"),
        ({"axis": 1}, "axis -2"),
        ({"mode": "circular"}, "only mode linear"),
    ],
)
def test_cache_updates(op_type, changes, message):
    built = cache_update(op_type=op_type, **changes)
    assert "cache" in rules(built)
    assert message in messages(built)


def test_a_good_cache_update_passes():
    assert rules(cache_update(axis=-2, mode="linear")) == []
    assert rules(cache_update(op_type="TensorScatter", axis=2)) == []
    assert rules(
        cache_update(shape=("b", 2, "capacity", 8)),
    ) == ["cache"]
    assert rules(cache_update(shape=("b", 2, "capacity", 8)), fixed_capacity=False) == []


@pytest.mark.parametrize(
    "op_type", ["MatMulNBits", "GroupQueryAttention", "SkipSimplifiedLayerNormalization", "RotaryEmbedding"]
)
def test_onnx_runtimes_own_ops(op_type):
    node = helper.make_node(op_type, ["a"], ["b"], domain="com.microsoft")
    assert "domain" in rules(model([node], [("a", F32, [1, 2, 4])], [("b", F32, None)]))


def test_a_standard_name_in_another_domain_is_read_as_the_standard_op():
    node = helper.make_node("Gelu", ["a"], ["b"], name="mine", domain="trtbench")
    built = model([node], [("a", F32, [1])], [("b", F32, [1])])
    assert "read as ONNX's Gelu" in messages(built)
    as_plugin = helper.make_node("Gelu", ["a"], ["b"], name="mine", domain="trtbench", plugin_namespace="trtbench")
    assert rules(model([as_plugin], [("a", F32, [1])], [("b", F32, [1])])) == []


def test_plugin_attributes_have_32_bits():
    node = helper.make_node("Mine", ["a"], ["b"], domain="trtbench", plugin_namespace="trtbench", seed=2**31)
    built = model([node], [("a", F32, [1])], [("b", F32, [1])])
    assert rules(built) == ["plugin"]
    assert "seed does not fit into 32 bits" in messages(built)


def test_an_op_that_nobody_knows():
    node = helper.make_node("Mine", ["a"], ["b"], name="mine", domain="trtbench")
    assert rules(model([node], [("a", F32, [1])], [("b", F32, [1])])) == ["unknown op"]


def function(name, body, inputs=("x",)):
    return helper.make_function("trtbench", name, list(inputs), ["y"], body, [helper.make_opsetid("", 24)])


def test_functions_are_followed_and_their_inputs_wired():
    twice = function("Twice", [helper.make_node("Add", ["x", "x"], ["y"])])
    call = helper.make_node("Twice", ["a"], ["b"], name="call", domain="trtbench")
    assert rules(model([call], [("a", F32, [1])], [("b", F32, [1])], functions=[twice])) == []
    two = function("Twice", [helper.make_node("Add", ["x", "z"], ["y"])], inputs=("x", "z"))
    built = model([call], [("a", F32, [1])], [("b", F32, [1])], functions=[two])
    assert rules(built) == ["functions"]
    assert "has 2 inputs and all of them must be wired" in messages(built)
    bad = function("Twice", [helper.make_node("MatMulInteger", ["x", "x"], ["y"])])
    assert rules(model([call], [("a", F32, [1])], [("b", F32, [1])], functions=[bad])) == ["unsupported op"]


def test_bodies_of_tensorrts_own_operators_are_not_entered():
    """Its importer comes first there, so the body may use what the parser refuses."""
    body = [helper.make_node("Attention", ["q", "k", "v"], ["y"], is_causal=1)]
    stand_in = helper.make_function(
        "trtbench.trt", "TRT_Attention", ["q", "k", "v"], ["y"], body, [helper.make_opsetid("", 24)]
    )
    built = attention(["q", "k", "v"], "TRT_Attention")
    built.functions.append(stand_in)
    assert rules(built) == []


def test_functions_nest_24_deep():
    functions = [function("F0", [helper.make_node("Relu", ["x"], ["y"])])]
    functions += [
        function(f"F{i}", [helper.make_node(f"F{i - 1}", ["x"], ["y"], domain="trtbench")]) for i in range(1, 26)
    ]
    call = helper.make_node("F25", ["a"], ["b"], domain="trtbench")
    assert rules(model([call], [("a", F32, [1])], [("b", F32, [1])], functions=functions)) == ["functions"]
    call = helper.make_node("F20", ["a"], ["b"], domain="trtbench")
    assert rules(model([call], [("a", F32, [1])], [("b", F32, [1])], functions=functions)) == []


def dequantize(dtype, shape, scale_shape, constant=True, zero_point=None, **attributes):
    inputs = ["w", "s"] + ([] if zero_point is None else ["z"])
    nodes = [helper.make_node("DequantizeLinear", inputs, ["y"], name="dq", **attributes)]
    initializers = [weight("s", F32, scale_shape)]
    given = []
    if constant:
        initializers.append(weight("w", dtype, shape))
    else:
        given.append(("w", dtype, shape))
    if zero_point == "constant":
        initializers.append(weight("z", dtype, scale_shape, 0))
    elif zero_point:
        given.append(("z", dtype, scale_shape))
    return model(nodes, given, [("y", F32, None)], initializers)


@pytest.mark.parametrize(
    ("built", "message"),
    [
        (lambda: dequantize(I4, [8, 256], [8, 8], axis=1, block_size=32), "8 scales for 256 4-bit elements"),
        (lambda: dequantize(I4, [8, 256], [8], axis=0), "a scale for each block"),
        (lambda: dequantize(I4, [8, 256], [4, 2], axis=1, block_size=128), "a scale for each block"),
        (lambda: dequantize(I4, [8, 256], [8, 2], constant=False, axis=1, block_size=128), "weights only"),
        (lambda: dequantize(I8, [8, 256], [8, 2], axis=1, block_size=128), "INT8 has no blocks"),
        (lambda: dequantize(I8, [8, 256], [7], axis=0), "7 scales do not fit"),
        (lambda: dequantize(I8, [8, 256], [8]), "8 scales do not fit"),  # the default axis is 1
        (lambda: dequantize(U8, [8, 256], [8], axis=0), "only signed"),
        (lambda: dequantize(I8, [8, 256], [8], axis=0, zero_point="input"), "constant zeros"),
    ],
)
def test_quantization(built, message):
    found = built()
    assert set(rules(found)) == {"quantization"}
    assert message in messages(found)


@pytest.mark.parametrize(
    "built",
    [
        lambda: dequantize(I4, [8, 256], [8, 2], axis=1, block_size=128),
        lambda: dequantize(I4, [8, 256], [8, 4], axis=1, block_size=64),
        lambda: dequantize(I4, [256, 8], [2, 8], axis=0, block_size=128),
        lambda: dequantize(I8, [8, 256], [8], axis=0, zero_point="constant"),
        lambda: dequantize(I8, [8, 256], [1]),
        lambda: dequantize(I8, [8, 256], [256]),
    ],
)
def test_quantization_that_tensorrt_reads(built):
    assert rules(built()) == []


@pytest.mark.parametrize(
    ("node", "shape", "message"),
    [
        (
            helper.make_node("RotaryEmbedding", ["x", "c", "s", ""], ["y"], num_heads=2),
            [1, 4, 16],
            "empty fourth input",
        ),
        (helper.make_node("RotaryEmbedding", ["x", "c", "s"], ["y"]), [1, 4, 16], "num_heads is needed"),
        (helper.make_node("LayerNormalization", ["x", "c"], ["y", "mean"]), [1, 4, 16], "gives one output"),
        (helper.make_node("MatMulInteger", ["x", "c"], ["y"]), [1, 4, 16], "has no importer"),
    ],
)
def test_single_ops(node, shape, message):
    inputs = [("x", F32, shape), ("c", F32, [1, 4, 4]), ("s", F32, [1, 4, 4])]
    assert message in messages(model([node], inputs, [("y", F32, None)]))


def test_rotary_embedding_of_four_dimensions_needs_no_num_heads():
    node = helper.make_node("RotaryEmbedding", ["x", "c", "s"], ["y"])
    inputs = [("x", F32, [1, 2, 4, 8]), ("c", F32, [1, 4, 4]), ("s", F32, [1, 4, 4])]
    assert rules(model([node], inputs, [("y", F32, None)])) == []


def test_an_input_may_not_be_an_output():
    built = model([helper.make_node("Relu", ["a"], ["b"])], [("a", F32, [1])], [("a", F32, [1]), ("b", F32, [1])])
    assert rules(built) == ["names"]


def test_everything_found_is_reported_at_once(tmp_path):
    nodes = [
        helper.make_node("MatMulInteger", ["a", "a"], ["b"], name="first"),
        helper.make_node("Mine", ["b"], ["c"], name="second", domain="trtbench"),
    ]
    path = tmp_path / "network.onnx"
    onnx.save(model(nodes, [("a", F32, [2, 2])], [("c", F32, None)]), str(path))
    with pytest.raises(BuildError) as caught:
        require_parseable(path)
    assert "first: MatMulInteger has no importer" in str(caught.value)
    assert "second: trtbench::Mine has no importer" in str(caught.value)
    assert caught.value.remedy
