"""Files with one fault each, for every rule that the others do not cover: each is found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.network.test_onnx_lint import F32, I4, I8, I64, QKV, attention, cache_update, messages, model, rules, weight

F16, F64, I32, U8 = TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.UINT8
FP8, FP4, E5M2 = TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT4E2M1, TensorProto.FLOAT8E5M2

Fault = tuple[Callable[[], onnx.ModelProto], str, str]


def op(op_type, inputs, outputs=("y",), constants=(), domain="", opset=24, known=(), **attributes):
    """A model of one node; inputs are (name, type, shape), constants tensors."""
    names = [one[0] if isinstance(one, tuple) else one for one in inputs]
    node = helper.make_node(op_type, names, list(outputs), name="node", domain=domain, **attributes)
    given = [one for one in inputs if isinstance(one, tuple)]
    return model([node], [*given, *known], [(name, F32, None) for name in outputs if name], constants, opset=opset)


def trt(op_type, inputs, **options):
    return op(op_type, inputs, domain="trtbench.trt", **options)


def collective(**attributes):
    wanted = {"collective_operation": "all_reduce", "reduce_op": "sum", "nb_rank": 2, **attributes}
    return trt("DistCollective", [("x", F32, [2, 4])], **{name: one for name, one in wanted.items() if one is not None})


def plugin(**attributes):
    return op("Mine", [("x", F32, [1])], domain="trtbench", **{"plugin_namespace": "trtbench", **attributes})


def quantize(stored=I8, scale=None, constant=None, shape=(4, 8), zero=0, dtype=F32, **attributes):
    """QuantizeLinear of an activation, with a zero point of type `stored` unless that is None."""
    scale = weight("s", F32, []) if scale is None else scale
    constants = [scale] + ([] if stored is None else [helper.make_tensor("z", stored, [], [zero])])
    inputs = [("x", dtype, list(shape)), "s"] + ([] if stored is None else ["z"])
    return op("QuantizeLinear", inputs, constants=constants, **attributes)


def dequantize(stored, shape, scale_shape, scale_value=1.0, scale_type=F32, **attributes):
    scale = helper.make_tensor("s", scale_type, scale_shape, np.full(int(np.prod(scale_shape)), scale_value))
    return op("DequantizeLinear", ["w", "s"], constants=[weight("w", stored, shape), scale], **attributes)


def packed_query(*names, **attributes):
    known = [("q", F32, ["n", 4, 8]), *QKV[1:], ("lengths", I32, ["b1"])]
    node = helper.make_node("TRT_Attention", list(names), ["y"], name="attn", domain="trtbench.trt", **attributes)
    return model([node], known, [("y", F32, None)])


def two_functions():
    body = [helper.make_node("Relu", ["x"], ["y"])]
    made = [
        helper.make_function(domain, "F", ["x"], ["y"], body, [helper.make_opsetid("", 24)]) for domain in ("a", "b")
    ]
    node = helper.make_node("F", ["x"], ["y"], name="node", domain="a")
    built = model([node], [("x", F32, [1])], [("y", F32, [1])])
    built.functions.extend(made)
    return built


def experts(count=6, dtype=I32, **attributes):
    names = [f"i{number}" for number in range(count)]
    inputs = [(name, dtype if name == "i1" else F32, None) for name in names]
    return trt("TRT_MoE", inputs, **{"activation_type": 1, **attributes})


ROTATED, TABLES = ("x", F32, [1, 2, 4, 8]), [("c", F32, [1, 4, 4]), ("s", F32, [1, 4, 4])]

FAULTS: list[Fault] = [
    # types and outputs
    (lambda: op("Relu", [("x", F64, [1])]), "type", "silently narrowed"),
    (lambda: op("Relu", [("x", TensorProto.INT16, [1])]), "type", "no tensors of type INT16"),
    (lambda: op("Relu", [("x", TensorProto.STRING, [1])]), "type", "no tensors of type STRING"),
    (lambda: op("Dropout", [("x", F32, [1])], ("y", "mask")), "outputs", "Dropout gives one output"),
    (lambda: op("RMSNormalization", [("x", F32, [1, 4]), ("w", F32, [4])], ("y", "r")), "outputs", "gives one output"),
    (lambda: op("Unique", [("x", F32, [4])]), "unsupported op", "Unique has no importer"),
    (lambda: op("DynamicQuantizeLinear", [("x", F32, [4])]), "unsupported op", "has no importer"),
    # plugins
    (lambda: plugin(scale=onnx.helper.make_tensor("t", I64, [1], [1])), "plugin", "a type that no plugin field has"),
    (lambda: plugin(names=["a", "b"]), "plugin", "becomes no plugin field"),
    (lambda: plugin(aot=2), "plugin", "aot is 0"),
    (lambda: plugin(plugin_namespace=""), "plugin", "plugin_namespace is empty"),
    (lambda: plugin(tensorrt_plugin_shape_input_indices=[0]), "plugin", "class interface only"),
    (two_functions, "functions", "both have a function of this name"),
    # attention
    (lambda: attention(["q", "k", "v"], TRT_normalization_op="relu"), "attention", "does not exist"),
    (lambda: op("Attention", [("q", F32, [1, 4, 32]), ("k", F32, [1, 4, 32]), ("v", F32, [1, 4, 32])]), "attention",
     "need q_num_heads"),
    (lambda: op("Attention", [("q", F32, [4, 8]), ("k", F32, [4, 8]), ("v", F32, [4, 8])]), "attention",
     "three or four dimensions"),
    (lambda: trt("TRT_Attention", [("q", F32, [1, 3, 4, 8]), ("k", F32, [1, 2, 4, 8]), ("v", F32, [1, 2, 4, 8])]),
     "attention", "no multiple of 2"),
    (lambda: trt("TRT_Attention", [(name, I8, [1, 2, 4, 8]) for name in "qkv"]), "attention", "are float32, float16"),
    (lambda: trt("TRT_Attention", [("q", F16, [1, 2, 4, 8]), *[(name, F32, [1, 2, 4, 8]) for name in "kv"]]),
     "attention", "differ in type"),
    (lambda: trt("TRT_Attention", [*[(name, F16, [1, 2, 4, 8]) for name in "qkv"], ("m", F32, [1, 1, 4, 4])]),
     "attention", "a mask is boolean"),
    (lambda: trt("TRT_Attention", [*[(name, F32, [1, 2, 4, 8]) for name in "qkv"], ("m", F32, [1, 1, 1, 4, 4])]),
     "attention", "at most four dimensions"),
    (lambda: attention(["q", "k", "v"], "TRT_Attention", query_form="bhnd"), "attention", "query_form b'bhnd'"),
    (lambda: packed_query("q", "k", "v", query_form="packed_nhd"), "attention", "need query_lengths"),
    (lambda: packed_query("q", "k", "v", "", "lengths", query_form="packed_nhd", kv_form="packed_nhd"), "attention",
     "packed keys need"),
    (lambda: attention(["q", "k", "v", "", "", "", "n"], "TRT_Attention"), "attention", "inputs 4 and 5"),
    (lambda: trt("TRT_QuantizedAttention", [(name, F32, [1, 2, 4, 8]) for name in "qkv"]), "attention", "exactly five"),
    (lambda: trt("TRT_QuantizedAttention", [*[(name, F32, [1, 2, 4, 8]) for name in "qkv"], "", ("s", F32, [])],
                 normalization_quantize_to_type=1), "attention", "FP8 (E4M3) or INT8"),
    (lambda: trt("TRT_QuantizedAttention", [*[(name, F32, [2, 4, 8]) for name in "qkv"], "", ("s", F32, [])]),
     "attention", "four dimensions"),
    # caches
    (lambda: cache_update(update_form="bhnd"), "cache", "update_form b'bhnd'"),
    (lambda: op("TensorScatter", [("p", F32, ["b", 2, 4, 8]), ("n", F32, ["t", 2, 8])], ("y",)), "cache",
     "the update must be"),
    (lambda: op("TensorScatter", [("p", F32, ["b", 2, 4, 8]), ("n", F16, ["b", 2, 1, 8])]), "cache", "cache's type"),
    (lambda: op("TensorScatter", [("p", F32, ["b", 2, 4, 8]), ("n", F32, ["b", 2, 1, 8]), ("at", F32, ["b"])]), "cache",
     "write indices are"),
    (lambda: trt("TRT_KVCacheUpdate", [("p", F32, ["b", 2, 4, 8]), ("n", F32, ["t", 2, 8])], update_form="packed_nhd"),
     "cache", "needs update_lengths"),
    # experts
    (lambda: experts(5), "experts", "six inputs"),
    (lambda: experts(7), "experts", "all three biases"),
    (lambda: experts(dtype=I64), "experts", "are int32"),
    (lambda: experts(activation_type=2), "experts", "activation_type is 0"),
    (lambda: trt("TRT_MoE", [(f"i{n}", I32 if n == 1 else F32, None) for n in range(6)]), "experts",
     "nothing is activated"),
    # collectives
    (lambda: collective(collective_operation="sum"), "collective", "collective_operation is one of"),
    (lambda: collective(reduce_op=None), "collective", "reduce_op is required"),
    (lambda: collective(reduce_op="none"), "collective", "needs a reduce_op"),
    (lambda: collective(collective_operation="all_gather"), "collective", "takes the reduce_op"),
    (lambda: collective(reduce_op="mean"), "collective", "no reduce_op"),
    (lambda: collective(group_size=2), "collective", "group_size is above 0"),
    (lambda: collective(groups=[0, 1, 2], group_size=2), "collective", "divides them"),
    (lambda: collective(nb_rank=None), "collective", "number of ranks"),
    (lambda: trt("DistCollective", [("x", F32, [2]), ("z", F32, [2])], collective_operation="all_gather",
                 reduce_op="none", nb_rank=2), "collective", "one input"),
    # rotary
    (lambda: op("RotaryEmbedding", [("x", F32, [1, 4, "w"]), *TABLES], num_heads=2), "rotary", "must be a constant"),
    (lambda: op("RotaryEmbedding", [ROTATED, ("c", F32, [16, 4]), TABLES[1]]), "rotary", "without position ids"),
    (lambda: op("RotaryEmbedding", [ROTATED, TABLES[0], ("s", F16, [1, 4, 4])]), "rotary", "not of the data's type"),
    (lambda: op("RotaryEmbedding", [ROTATED, ("c", F32, [16, 4]), ("s", F32, [16, 4]), ("p", I32, [1, 4])]), "rotary",
     "position ids are int64"),
    # others
    (lambda: op("LayerNormalization", [("x", F16, [1, 4]), ("w", F32, [4])]), "types", "not of the data's type"),
    (lambda: op("Gelu", [("x", F32, [1])], approximate="fast"), "attribute", "none or tanh"),
    (lambda: op("CumSum", [("x", F32, [4]), ("axis", I64, [])]), "constant", "must be a constant"),
    (lambda: op("Einsum", [("x", I64, [4, 4])], equation="ij->ji"), "types", "takes no integers"),
    (lambda: op("Loop", ["", ("go", TensorProto.BOOL, []), ("x", F32, [1])], ("y", "ys"), body=helper.make_graph(
        [helper.make_node("Identity", ["i"], ["o"])], "b", [], [])), "loop", "needs a trip count"),
    # quantization
    (lambda: quantize(None), "quantization", "ONNX gives UINT8, and TensorRT INT8"),
    (lambda: quantize(U8), "quantization", "only signed"),
    (lambda: quantize(E5M2), "quantization", "only signed"),
    (lambda: quantize(zero=3), "quantization", "other than 0"),
    (
        lambda: op(
            "DequantizeLinear",
            [("x", I8, [4, 8]), "s", "z"],
            constants=[weight("s", F32, []), helper.make_tensor("z", I4, [], [0])],
        ),
        "quantization",
        "the zero point decides the type",
    ),
    (lambda: quantize(dtype=F16), "quantization", "has the data's type"),
    (lambda: quantize(scale=weight("s", F32, [8]), axis=1), "quantization", "not one a channel"),
    (lambda: quantize(scale=weight("s", F32, [4, 1])), "quantization", "not one a channel"),
    (lambda: dequantize(I8, [4, 8], [4], scale_value=0.0, axis=0), "quantization", "above 0"),
    (lambda: dequantize(I8, [4, 8], [4], scale_value=-1.0, axis=0), "quantization", "above 0"),
    (lambda: dequantize(I8, [4, 8], [4], scale_type=I32, axis=0), "quantization", "scales are float32"),
    (lambda: dequantize(I4, [3, 3], [3, 3], axis=1), "quantization", "odd number"),
    (lambda: dequantize(FP8, [4, 8], [7], axis=0), "quantization", "7 scales do not fit"),
    (lambda: dequantize(FP8, [4, 8], [4, 8, 1], axis=0), "quantization", "fit no form"),
    (lambda: dequantize(FP4, [4, 64], [4, 2], axis=1), "quantization", "blocks must have 16"),
    (lambda: dequantize(I4, [128, 2, 2], [1, 2, 2], axis=0), "quantization", "last two dimensions"),
    (lambda: dequantize(I4, [2, 192], [2, 5], axis=1), "quantization", "do not divide"),
    (lambda: trt("TRT_MXFP8DynamicQuantize", [("x", F16, [2, 64])], axis=0), "quantization", "blocks of 32"),
    (lambda: trt("TRT_FP4DynamicQuantize", [("x", F16, [2, 64]), ("s", F32, [])], block_size=16), "quantization",
     "must be a constant"),
    (lambda: trt("TRT_FP4DynamicQuantize", [("x", F16, [2, 64]), "s"], constants=[weight("s", F32, [])], block_size=8),
     "quantization", "blocks of 16"),
]  # fmt: skip


@pytest.mark.parametrize(("made", "rule", "message"), FAULTS, ids=[f"{fault[1]}: {fault[2]}" for fault in FAULTS])
def test_single_faults(made, rule, message):
    built = made()
    assert message in messages(built)
    assert rule in rules(built)


GOOD = [
    lambda: quantize(),
    lambda: quantize(FP8),
    lambda: quantize(dtype=F16, scale=weight("s", F16, [])),
    lambda: quantize(dtype=F16, opset=18),
    lambda: quantize(None, output_dtype=I8),
    lambda: dequantize(FP8, [4, 8], [4], axis=0),
    lambda: dequantize(FP8, [4, 8], []),
    lambda: dequantize(FP4, [4, 64], [4, 4], axis=1),
    lambda: collective(),
    lambda: collective(collective_operation="all_gather", reduce_op="none"),
    lambda: collective(groups=[0, 1], group_size=2),
    lambda: plugin(aot=1, size=7, factor=0.5, kind="x", table=onnx.helper.make_tensor("t", F32, [1], [1.0])),
    lambda: experts(),
    lambda: experts(9),
    lambda: packed_query("q", "k", "v", "", "lengths", query_form="packed_nhd"),
    lambda: op("Gelu", [("x", F32, [1])], approximate="tanh"),
    lambda: op("RotaryEmbedding", [ROTATED, ("c", F32, [16, 4]), ("s", F32, [16, 4]), ("p", I64, [1, 4])]),
    lambda: op("CumSum", [("x", F32, [4]), "axis"], constants=[weight("axis", I64, [])]),
]


@pytest.mark.parametrize("made", GOOD, ids=range(len(GOOD)))
def test_the_same_without_the_fault_passes(made):
    assert rules(made()) == []
