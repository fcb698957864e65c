from __future__ import annotations

from typing import Any

import pytest

from trtbench_lab.checkpoint import expected_tensors
from trtbench_lab.checkpoint.layout import rank_slice, rank_tensors
from trtbench_lab.errors import CheckpointError, TrtbenchError
from trtbench_lab.specs import Mapping, ModelConfig

GPT: dict[str, Any] = {
    "architecture": "GPT2LMHeadModel", "dtype": "float16", "vocab_size": 50257, "max_position_embeddings": 1024,
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
}  # fmt: skip
LLAMA: dict[str, Any] = {
    "architecture": "LlamaForCausalLM", "dtype": "float16", "vocab_size": 128, "max_position_embeddings": 64,
    "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,
    "intermediate_size": 96, "position_embedding_type": "rope_gpt_neox", "norm_type": "rmsnorm", "gated_mlp": True,
    "qkv_bias": False, "dense_bias": False, "mlp_bias": False, "hidden_act": "silu",
}  # fmt: skip
SHARED = {"share_embedding_table": True, "tie_word_embeddings": True}


def shapes(mapping: Mapping, **fields: Any) -> dict[str, tuple[int, ...]]:
    config = ModelConfig(**{**GPT, **fields}, mapping=mapping)
    return {name: shape for name, (shape, _) in expected_tensors(config).items()}


def test_gpt2_medium_over_two_ranks_by_hand() -> None:
    found = shapes(Mapping(tp_size=2, rank=1))
    layer = "transformer.layers.23"
    assert found[f"{layer}.attention.qkv.weight"] == (1536, 1024)
    assert found[f"{layer}.attention.qkv.bias"] == (1536,)
    assert found[f"{layer}.attention.dense.weight"] == (1024, 512)
    assert found[f"{layer}.attention.dense.bias"] == (1024,)
    assert found[f"{layer}.mlp.fc.weight"] == (2048, 1024)
    assert found[f"{layer}.mlp.proj.weight"] == (1024, 2048)
    assert found["transformer.vocab_embedding.weight"] == (50257, 1024)  # whole unless asked otherwise
    assert found["lm_head.weight"] == (25129, 1024)  # 50258 rows, one of padding
    assert len(found) == 2 + 24 * 12 + 2 + 1


@pytest.mark.parametrize(
    ("dim", "vocab", "positions"), [(0, (16753, 1023), (342, 1023)), (1, (50257, 341), (1024, 341))]
)
def test_parallel_embedding_divides_both_tables(dim: int, vocab: tuple[int, ...], positions: tuple[int, ...]) -> None:
    fields = {"hidden_size": 1023, "num_attention_heads": 3, "intermediate_size": 3, "use_parallel_embedding": True}
    found = shapes(Mapping(tp_size=3), embedding_sharding_dim=dim, **fields)
    assert found["transformer.vocab_embedding.weight"] == vocab
    assert found["transformer.position_embedding.weight"] == positions


def test_stages_number_their_layers_from_zero_and_hold_the_edges() -> None:
    first, last = shapes(Mapping(pp_size=2, rank=0)), shapes(Mapping(pp_size=2, rank=1))
    layers = {int(name.split(".")[2]) for name in last if ".layers." in name}
    assert layers == set(range(12))
    assert {name for name in first if ".layers." not in name} == {
        "transformer.vocab_embedding.weight", "transformer.position_embedding.weight",
    }  # fmt: skip
    assert {name for name in last if ".layers." not in name} == {
        "transformer.ln_f.weight", "transformer.ln_f.bias", "lm_head.weight",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rank", "rows"),
    [
        # 8 query heads of 8, 2 K/V heads of 8 on 4 ranks: q 0–63, k 64–79, v 80–95
        (0, ((0, 16), (64, 72), (80, 88))),
        (1, ((16, 32), (64, 72), (80, 88))),
        (2, ((32, 48), (72, 80), (88, 96))),
        (3, ((48, 64), (72, 80), (88, 96))),
    ],
)
def test_shared_key_value_heads_lie_on_neighbouring_ranks(rank: int, rows: tuple[tuple[int, int], ...]) -> None:
    config = ModelConfig(**LLAMA, mapping=Mapping(tp_size=4, rank=rank))
    qkv = next(tensor for tensor in rank_tensors(config, config.mapping) if "qkv" in tensor.name)
    assert rank_slice(qkv, config, config.mapping).rows == rows


def test_multi_query_puts_the_one_head_on_every_rank() -> None:
    for rank in range(8):
        config = ModelConfig(**{**LLAMA, "num_key_value_heads": 1}, mapping=Mapping(tp_size=8, rank=rank))
        qkv = next(tensor for tensor in rank_tensors(config, config.mapping) if "qkv" in tensor.name)
        rows = [row for start, end in rank_slice(qkv, config, config.mapping).rows for row in range(start, end)]
        assert rows == [*range(rank * 8, rank * 8 + 8), *range(64, 72), *range(72, 80)]


def test_a_shared_table_has_no_head_of_its_own() -> None:
    rows = {"use_parallel_embedding": True, "embedding_sharding_dim": 0}
    found = shapes(Mapping(tp_size=2), **rows, **SHARED)
    assert "lm_head.weight" not in found
    assert found["transformer.vocab_embedding.weight"] == (25129, 1024)
    assert "lm_head.weight" not in shapes(Mapping(), **SHARED)


def test_default_exclusion_keeps_the_head_and_an_empty_one_does_not() -> None:
    def dtype(**quantization: Any) -> dict[str, str]:
        config = ModelConfig(**LLAMA, quantization={"quant_algo": "W8A16", **quantization})
        return {name: dtype for name, (_, dtype) in expected_tensors(config).items()}

    assert dtype()["lm_head.weight"] == "float16"
    assert dtype()["transformer.layers.0.mlp.gate.weight"] == "int8"
    assert dtype()["transformer.vocab_embedding.weight"] == "float16"
    assert dtype(exclude_modules=[])["lm_head.weight"] == "int8"
    some = dtype(exclude_modules=["*.mlp.*", "lm_head"])
    assert (some["transformer.layers.3.mlp.fc.weight"], some["transformer.layers.3.attention.qkv.weight"]) == (
        "float16", "int8",
    )  # fmt: skip
    assert dtype()["transformer.layers.0.attention.dense.per_channel_scale"] == "float16"


@pytest.mark.parametrize(
    ("mapping", "fields", "words"),
    [
        (Mapping(tp_size=3), {}, ["8 attention heads", "2 K/V heads"]),
        (Mapping(pp_size=3), {}, ["4 layers"]),
        (Mapping(tp_size=8), {"intermediate_size": 100}, ["intermediate_size 100"]),
        (Mapping(tp_size=4), {"hidden_size": 62, "head_size": 8, "use_parallel_embedding": True,
                              "embedding_sharding_dim": 1}, ["hidden_size 62"]),
        (Mapping(tp_size=4, pp_size=3), {"num_key_value_heads": 8, "intermediate_size": 98}, ["4 layers", "98"]),
        (Mapping(), {"share_embedding_table": True}, ["tied"]),
        (Mapping(tp_size=2), SHARED, ["embedding_sharding_dim 0"]),
        (Mapping(tp_size=2), {**SHARED, "use_parallel_embedding": True, "embedding_sharding_dim": 1},
         ["embedding_sharding_dim 0"]),
        (Mapping(pp_size=2), SHARED, ["one pipeline stage"]),
        (Mapping(), {**SHARED, "quantization": {"quant_algo": "W8A16", "exclude_modules": []}},
         ["lm_head cannot be quantized"]),
        (Mapping(tp_size=2), {"quantization": {"quant_algo": "W4A16", "group_size": 64}}, ["groups of 64"]),
        (Mapping(tp_size=2), {"intermediate_size": 94, "quantization": {"quant_algo": "W4A16"}}, ["two to a byte"]),
    ],
)  # fmt: skip
def test_what_cannot_be_divided_is_refused_with_every_reason(
    mapping: Mapping, fields: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(TrtbenchError) as caught:
        expected_tensors(ModelConfig(**{**LLAMA, **fields}, mapping=mapping))
    assert all(word in str(caught.value) for word in words)
    assert isinstance(caught.value, CheckpointError) or "pipeline" in str(caught.value)
