"""For random shapes and layouts: the ranks joined again are the source, bit by bit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trtbench_lab.checkpoint import config_from_source, convert, expected_tensors, open_checkpoint
from trtbench_lab.checkpoint.source import MemorySource
from trtbench_lab.specs import Mapping

from .sources import Joiner, bits, gpt2_tensors, gpt2_values, llama_tensors, llama_values, rank_arrays

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
DTYPES = ("float32", "float16", "bfloat16")


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    """A division and a model that it fits: heads, K/V heads below or above tp, odd vocabularies."""
    tp, pp = draw(st.sampled_from([1, 2, 3, 4])), draw(st.sampled_from([1, 2, 3]))
    kv_heads = draw(st.sampled_from([k for k in (1, 2, 3, 4, 6, 8) if k % tp == 0 or tp % k == 0]))
    lowest = int(np.lcm(tp, kv_heads))
    return {
        "tp": tp,
        "pp": pp,
        "kv_heads": kv_heads,
        "heads": lowest * draw(st.integers(1, 2)),
        "head_size": draw(st.sampled_from([2, 4, 6])),
        "layers": pp * draw(st.integers(1, 2)),
        "inner": tp * draw(st.integers(1, 9)),
        "hidden": tp * draw(st.integers(1, 8)),
        "vocab": draw(st.integers(1, 40)),
        "bias": draw(st.booleans()),
        "tied": draw(st.booleans()),
        "source": draw(st.sampled_from(DTYPES)),
        "stored": draw(st.sampled_from(DTYPES)),
        "embedding": draw(st.sampled_from([None, 0, 1])),
        "workers": draw(st.integers(1, 3)),
    }


def padded(table: torch.Tensor, tp: int) -> np.ndarray:
    rows = -(-table.shape[0] // tp) * tp
    return bits(torch.cat([table, torch.zeros(rows - table.shape[0], table.shape[1], dtype=table.dtype)]))


@QUICK
@given(layout=layouts(), seed=st.integers(0, 5))
def test_llama_ranks_join_to_the_source(layout: dict[str, Any], seed: int) -> None:
    tp, pp, embedding = layout["tp"], layout["pp"], layout["embedding"]
    sizes = {name: layout[name] for name in ("heads", "kv_heads", "head_size", "hidden", "inner", "layers", "vocab")}
    values = llama_values(**sizes, attention_bias=layout["bias"], tie_word_embeddings=layout["tied"])
    tensors = llama_tensors(values, seed, getattr(torch, layout["source"]))
    stored = getattr(torch, layout["stored"])
    want = {name: tensor.to(stored) for name, tensor in tensors.items()}
    source = MemorySource(values, tensors)
    config = config_from_source(
        source, layout["stored"], Mapping(tp_size=tp, pp_size=pp),
        use_parallel_embedding=embedding is not None, embedding_sharding_dim=embedding or 0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        convert(source, Path(folder) / "c", config=config, workers=layout["workers"])
        checkpoint = open_checkpoint(Path(folder) / "c", verify=True)
        ranks = rank_arrays(checkpoint.directory, tp * pp)
    join = Joiner(ranks, tp, pp, layout["layers"], layout["heads"], layout["kv_heads"], layout["head_size"])
    last = pp - 1
    for layer in range(layout["layers"]):
        block = f"model.layers.{layer}"
        for kind in ("weight", "bias") if layout["bias"] else ("weight",):
            for rows, letter in zip(join.qkv(f"attention.qkv.{kind}", layer), "qkv", strict=True):
                assert np.array_equal(rows, bits(want[f"{block}.self_attn.{letter}_proj.{kind}"]))
        assert np.array_equal(
            join.columns("attention.dense.weight", layer), bits(want[f"{block}.self_attn.o_proj.weight"])
        )
        if layout["bias"]:
            assert np.array_equal(
                join.whole("attention.dense.bias", layer), bits(want[f"{block}.self_attn.o_proj.bias"])
            )
        assert np.array_equal(join.rows("mlp.fc.weight", layer), bits(want[f"{block}.mlp.gate_proj.weight"]))
        assert np.array_equal(join.rows("mlp.gate.weight", layer), bits(want[f"{block}.mlp.up_proj.weight"]))
        assert np.array_equal(join.columns("mlp.proj.weight", layer), bits(want[f"{block}.mlp.down_proj.weight"]))
        for ours, theirs in (("input_layernorm", "input_layernorm"), ("post_layernorm", "post_attention_layernorm")):
            assert np.array_equal(join.whole(f"{ours}.weight", layer), bits(want[f"{block}.{theirs}.weight"]))
    table, name = want["model.embed_tokens.weight"], "transformer.vocab_embedding.weight"
    if embedding == 0:
        assert np.array_equal(join.rows(name), padded(table, tp))
    elif embedding == 1:
        assert np.array_equal(join.columns(name), bits(table))
    else:
        assert np.array_equal(join.whole(name), bits(table))
    head = want["model.embed_tokens.weight" if layout["tied"] else "lm_head.weight"]
    assert np.array_equal(join.rows("lm_head.weight", stage=last), padded(head, tp))
    assert np.array_equal(join.whole("transformer.ln_f.weight", stage=last), bits(want["model.norm.weight"]))
    for rank, arrays in enumerate(ranks):  # and nothing beside these
        stage = rank // tp
        assert (name in arrays) == (stage == 0)
        assert ("lm_head.weight" in arrays) == ("transformer.ln_f.weight" in arrays) == (stage == last)


@QUICK
@given(
    tp=st.sampled_from([1, 2, 4]), pp=st.sampled_from([1, 2]), per_rank=st.integers(1, 2), layers=st.integers(1, 2),
    inner=st.integers(1, 9), vocab=st.integers(1, 30), positions=st.integers(1, 9),
    embedding=st.sampled_from([None, 0, 1]), stored=st.sampled_from(DTYPES), seed=st.integers(0, 5),
)  # fmt: skip
def test_gpt2_ranks_join_to_the_transposed_source(
    tp: int, pp: int, per_rank: int, layers: int, inner: int, vocab: int, positions: int,
    embedding: int | None, stored: str, seed: int,
) -> None:  # fmt: skip
    heads, head_size = tp * per_rank, 4
    hidden = heads * head_size
    values = gpt2_values(hidden, heads, pp * layers, vocab, positions, n_inner=tp * inner)
    tensors = gpt2_tensors(values, seed)
    want = {name: tensor.to(getattr(torch, stored)) for name, tensor in tensors.items()}
    source = MemorySource(values, tensors)
    config = config_from_source(
        source, stored, Mapping(tp_size=tp, pp_size=pp),
        use_parallel_embedding=embedding is not None, embedding_sharding_dim=embedding or 0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        convert(source, Path(folder) / "c", config=config)
        ranks = rank_arrays(Path(folder) / "c", tp * pp)
    join = Joiner(ranks, tp, pp, pp * layers, heads, heads, head_size)
    for layer in range(pp * layers):
        fused = want[f"h.{layer}.attn.c_attn.weight"].t()
        assert np.array_equal(np.concatenate(join.qkv("attention.qkv.weight", layer)), bits(fused))
        assert np.array_equal(
            np.concatenate(join.qkv("attention.qkv.bias", layer)), bits(want[f"h.{layer}.attn.c_attn.bias"])
        )
        for ours, theirs, cut in (
            ("attention.dense", "attn.c_proj", join.columns), ("mlp.fc", "mlp.c_fc", join.rows),
            ("mlp.proj", "mlp.c_proj", join.columns),
        ):  # fmt: skip
            assert np.array_equal(cut(f"{ours}.weight", layer), bits(want[f"h.{layer}.{theirs}.weight"].t()))
        assert np.array_equal(join.rows("mlp.fc.bias", layer), bits(want[f"h.{layer}.mlp.c_fc.bias"]))
        assert np.array_equal(join.whole("mlp.proj.bias", layer), bits(want[f"h.{layer}.mlp.c_proj.bias"]))
        assert np.array_equal(join.whole("attention.dense.bias", layer), bits(want[f"h.{layer}.attn.c_proj.bias"]))
    for name, table in (("vocab", want["wte.weight"]), ("position", want["wpe.weight"])):
        full = f"transformer.{name}_embedding.weight"
        if embedding == 0:
            assert np.array_equal(join.rows(full), padded(table, tp))
        else:
            assert np.array_equal((join.columns if embedding == 1 else join.whole)(full), bits(table))


@QUICK
@given(layout=layouts(), algo=st.sampled_from(["W8A16", "W4A16"]), group=st.sampled_from([None, 32, 64]))
def test_quantized_parts_add_up_to_the_whole(layout: dict[str, Any], algo: str, group: int | None) -> None:
    """The layout of packed weights and scales: what the ranks hold together is what one rank holds, replicas aside."""
    tp = layout["tp"]
    values = llama_values(
        heads=layout["heads"], kv_heads=layout["kv_heads"], head_size=128, hidden=128, inner=128 * tp,
        layers=layout["layers"], vocab=layout["vocab"], attention_bias=layout["bias"],
    )  # fmt: skip
    quantization = {"quant_algo": algo, "group_size": group, "exclude_modules": []}
    config = config_from_source(MemorySource(values, {}), "float16", quantization=quantization)
    one = expected_tensors(config)
    split = [expected_tensors(config, Mapping(tp_size=tp, rank=rank)) for rank in range(tp)]
    for name, (shape, dtype) in one.items():
        parts = [tensors[name][0] for tensors in split]
        assert all(tensors[name][1] == dtype for tensors in split)
        assert len(set(parts)) == 1
        if name.endswith(
            ("dense.weight", "proj.weight", "dense.weights_scaling_factor", "proj.weights_scaling_factor")
        ):
            assert parts[0] == (shape[0], shape[1] // tp)
        elif "mlp.fc" in name or "mlp.gate" in name:
            assert parts[0] == (shape[0] // tp, *shape[1:])
        elif name == "lm_head.weight":
            assert parts[0] == (-(-shape[0] // tp), shape[1])
        elif "attention.qkv" in name:
            width = (layout["heads"] // tp + 2 * max(1, layout["kv_heads"] // tp)) * 128
            assert parts[0] == (width, *shape[1:])
    packed = one["transformer.layers.0.mlp.fc.weight"]
    assert packed == ((128 * tp, 128 if algo == "W8A16" else 64), "int8")
    scale = "per_channel_scale" if group is None else "weights_scaling_factor"
    assert one[f"transformer.layers.0.mlp.fc.{scale}"][0] == (
        (128 * tp,) if group is None else (128 * tp, 128 // group)
    )
