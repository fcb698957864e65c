"""Names of nodes say their module, and are found again in the names that engines make of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtbench_lab.network.node_names import (
    common_module,
    layer_number,
    module_group,
    module_of_node,
    node_name,
    nodes_in,
)

QKV, DENSE = "transformer.layers.12.attention.qkv/MatMul", "transformer.layers.12.attention.dense/Add_2"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (QKV, (QKV,)),
        (f"{QKV} + {DENSE}", (QKV, DENSE)),
        (f"[MatMul] {QKV} + {DENSE}", (QKV, DENSE)),
        (f"{{ForeignNode[{QKV}...{DENSE}]}}", (QKV, DENSE)),
        (
            f"Reformatting CopyNode for Input Tensor 0 to {{ForeignNode[{QKV}...lm_head/MatMul]}}",
            (QKV, "lm_head/MatMul"),
        ),
        (f"PWN(PWN({QKV}), {DENSE}) [profile 1]", (QKV, DENSE)),
        (f"{QKV}:0", (QKV,)),
        (f"{QKV} + {QKV}", (QKV,)),
        ("__myl_MulAdd_myl0_12", ()),
        ("/model/layers.0/mlp/MatMul", ()),
        ("sm90_xmma_gemm_f16f16_f16", ()),
        ("", ()),
    ],
)
def test_nodes_in_made_names(text: str, found: tuple[str, ...]) -> None:
    assert nodes_in(text) == found


WORDS = st.lists(st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True), min_size=1, max_size=4)
OPS = st.sampled_from(["MatMul", "Add_3", "TRT_Attention", "RMSNormalization"])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(WORDS.map(".".join), OPS), min_size=1, max_size=5, unique=True))
def test_fusions_of_any_nodes_are_taken_apart(parts: list[tuple[str, str]]) -> None:
    nodes = [f"{module}/{op}" for module, op in parts]
    assert nodes_in(" + ".join(nodes)) == tuple(dict.fromkeys(nodes))
    assert [module_of_node(node) for node in nodes] == [module for module, _ in parts]


def test_modules_of_nodes_weights_and_strangers() -> None:
    assert module_of_node(QKV) == "transformer.layers.12.attention.qkv"
    assert module_of_node("transformer.layers.0.mlp.fc.weight:transposed") == "transformer.layers.0.mlp.fc"
    assert module_of_node("node_matmul_12") is None
    assert node_name("", "Add") == "decoder/Add"


@pytest.mark.parametrize(
    ("modules", "common"),
    [
        (["transformer.layers.0.mlp.fc", "transformer.layers.0.mlp.proj"], "transformer.layers.0.mlp"),
        (["transformer.layers.0.mlp", "transformer.layers.1.mlp"], "transformer.layers"),
        (["lm_head", "transformer.ln_f"], "decoder"),
        (["lm_head"], "lm_head"),
        ([], None),
    ],
)
def test_innermost_common_module(modules: list[str], common: str | None) -> None:
    assert common_module(modules) == common


def test_layers_by_number() -> None:
    assert layer_number("transformer.layers.12.attention") == 12
    assert layer_number("lm_head") is layer_number(None) is None
    assert module_group("transformer.layers.12.attention.qkv") == "transformer.layers.*.attention.qkv"
    assert module_group(None) == "not attributed"
