"""Each slow pattern is found where it is, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
from tests.explore.synthetic_tensorrt import decoder, layer, tensor

from trtbench_lab.explore import Layer, TensorFacts
from trtbench_lab.explore.patterns import slow_patterns
from trtbench_lab.explore.readers.tensorrt_json import read_inspector


def rules(content: dict[str, Any]) -> dict[str, Any]:
    return {pattern.rule: pattern for pattern in slow_patterns(read_inspector(content, "test").layers)}


def made(kind: str, module: str = "transformer.layers.0.mlp", **facts: Any) -> Layer:
    return Layer(**{"name": f"{module}/{kind}", "type": kind, "kind": kind, "module": module, **facts})


def test_a_fused_engine_has_its_reformat_only() -> None:
    found = rules(decoder())
    assert set(found) == {"reformat"}
    assert found["reformat"].layers == ("Reformatting CopyNode for Input Tensor 0 to lm_head/MatMul",)
    assert found["reformat"].where == "lm_head"
    assert found["reformat"].reason
    assert found["reformat"].remedy


def test_unfused_attention() -> None:
    found = rules(decoder(fused_attention=False))["unfused attention"]
    assert found.where == "transformer.layers.*.attention"
    assert {"softmax_0", "softmax_1", "qk_0", "av_1"} <= set(found.layers)
    assert "transformer.layers.0.attention.qkv/MatMul + transformer.layers.0.attention.qkv/Add" not in found.layers


def test_head_in_a_wider_type() -> None:
    found = rules(decoder(head_dtype="Float"))["dtype island"]
    assert found.layers == ("lm_head/MatMul",)
    assert "float32" in found.reason
    assert "float16" in found.reason


def test_cast_round_trip_is_followed_by_names() -> None:
    half, full = tensor("a", "Half", [8]), tensor("b", "Float", [8])
    back, views = tensor("d", "Half", [8]), tensor("c", "Float", [2, 4])
    trip = [
        layer("to float", "cast", [half], [full]),
        layer("shape", "shuffle", [full], [views]),
        layer("to half", "cast", [views], [back]),
        layer("other", "cast", [tensor("z", "Half", [8])], [tensor("y", "Float", [8])]),
    ]
    found = rules({"Layers": trip})["cast round trip"]
    assert found.layers == ("to float", "to half")
    with_work = [trip[0], layer("work", "gemm", [full], [full]), trip[2]]
    assert "cast round trip" not in rules({"Layers": with_work})


def test_small_ops_in_a_row() -> None:
    three = [made("pointwise", times_ms=(1.0,)) for _ in range(3)]
    (found,) = slow_patterns([*three, made("matmul", times_ms=(7.0,))])
    assert (found.rule, found.time_ms, found.share) == ("small ops", 3.0, 30.0)
    assert slow_patterns([*three[:2], made("matmul", times_ms=(7.0,)), three[2]]) == ()
    # views in between cost nothing and break no chain
    assert slow_patterns([three[0], made("view"), three[1], three[2]])[0].rule == "small ops"


def test_chains_do_not_reach_over_modules() -> None:
    parts = ["transformer.layers.0.mlp", "lm_head", "transformer.ln_f"]
    assert slow_patterns([made("pointwise", module) for module in parts]) == ()


def test_cache_copies_and_repeated_heads() -> None:
    past = TensorFacts(name="past_key_0", dtype="float16", shape=(1, 2, 32, 16))
    grown = TensorFacts(name="present_key_0", dtype="float16", shape=(1, 2, 33, 16))
    attention = "transformer.layers.0.attention"
    copied = made("copy", attention, type="Concat", inputs=(past,), outputs=(grown,))
    (found,) = slow_patterns([copied])
    assert (found.rule, "copied" in found.reason) == ("cache copy", True)
    wide = TensorFacts(dtype="float16", shape=(1, 2, 4, 32, 16))
    narrow = TensorFacts(dtype="float16", shape=(1, 2, 1, 32, 16))
    (found,) = slow_patterns([made("copy", attention, type="Expand", inputs=(narrow,), outputs=(wide,))])
    assert "repeated for every query head" in found.reason
    assert slow_patterns([made("cache", attention, inputs=(past,), outputs=(grown,))]) == ()


def test_weights_written_out_in_each_run() -> None:
    (found,) = slow_patterns([made("quantize", weights_bytes=1 << 20)])
    assert found.rule == "weights expanded"
    assert slow_patterns([made("quantize", weights_bytes=1 << 10)]) == ()


def test_what_takes_no_time_is_not_told() -> None:
    small = [made("pointwise", times_ms=(0.001,)) for _ in range(3)]
    assert slow_patterns([*small, made("matmul", times_ms=(10.0,))]) == ()


@pytest.mark.parametrize("layers", [[], [made("matmul")], [Layer(name="", type="", kind="other")]])
def test_nothing_is_found_in_nothing(layers: list[Layer]) -> None:
    assert slow_patterns(layers) == ()
