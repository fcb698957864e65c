"""Meta's folders, cut from models of transformers by the rules that Meta's code states."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.checkpoint.sources import llama_tensors, llama_values

from trtbench_lab.checkpoint import config_from_source
from trtbench_lab.checkpoint.source import MemorySource
from trtbench_lab.errors import IntakeError, TrtbenchError
from trtbench_lab.families.hf_config import HfConfig
from trtbench_lab.intake.meta import halves_from_pairs, intermediate_size, open_meta_folder
from trtbench_lab.models import LLaMAForCausalLM
from trtbench_lab.specs import Mapping

PARAMS = {
    "dim": 32,
    "n_heads": 4,
    "n_kv_heads": 2,
    "n_layers": 2,
    "norm_eps": 1e-5,
    "multiple_of": 16,
    "vocab_size": -1,
}
# dim 32: two thirds of 128 are 85, the next multiple of 16 is 96
VALUES = llama_values(heads=4, kv_heads=2, head_size=8, hidden=32, inner=96, layers=2, vocab=64, rms_norm_eps=1e-5)


def pairs_from_halves(weight: torch.Tensor, head: int) -> torch.Tensor:
    """The inverse order, element by element: row 2i from i, row 2i + 1 from i + head / 2."""
    rows = []
    for start in range(0, weight.shape[0], head):
        for pair in range(head // 2):
            rows += [weight[start + pair], weight[start + pair + head // 2]]
    return torch.stack(rows)


def meta_tensors(hf: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = {
        "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv",
        "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2",
        "mlp.up_proj": "feed_forward.w3", "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    made = {"rope.freqs": torch.ones(4)}
    for name, tensor in hf.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = pairs_from_halves(tensor, 8)
        name = name.replace("model.embed_tokens", "tok_embeddings").replace("lm_head", "output")
        name = name.removeprefix("model.")
        for theirs, metas in names.items():
            name = name.replace(theirs, metas)
        made[name] = tensor
    return made


def write_meta_folder(folder: Path, shards: int = 1, table: int = 1, **params: Any) -> dict[str, torch.Tensor]:
    """Write a folder of `shards` files, the embedding cut along `table`; return the tensors of Hugging Face."""
    hf = llama_tensors(VALUES)
    folder.mkdir()
    (folder / "params.json").write_text(json.dumps({**PARAMS, **params}))
    for index in range(shards):
        shard = {}
        for name, tensor in meta_tensors(hf).items():
            along = 1 if name.endswith(("wo.weight", "w2.weight")) else table if "tok_emb" in name else 0
            alike = "norm" in name or name == "rope.freqs"
            shard[name] = tensor if alike else tensor.chunk(shards, along)[index].clone()
        torch.save(shard, folder / f"consolidated.{index:02d}.pth")
    return hf


@pytest.mark.parametrize(("shards", "table"), [(1, 0), (2, 0), (2, 1)])
def test_tensors_are_those_of_hugging_face(tmp_path: Path, shards: int, table: int) -> None:
    hf = write_meta_folder(tmp_path / "meta", shards, table)
    source = open_meta_folder(tmp_path / "meta")
    assert set(source.names()) == set(hf)
    for name, tensor in hf.items():
        assert source.shape(name) == tuple(tensor.shape)
        assert source.dtype(name) == tensor.dtype
        assert torch.equal(source.tensor(name), tensor)


def test_configuration_is_that_of_hugging_face(tmp_path: Path) -> None:
    hf = write_meta_folder(tmp_path / "meta", 2)
    ours = config_from_source(open_meta_folder(tmp_path / "meta", max_position_embeddings=64), "float32")
    assert ours == config_from_source(MemorySource(VALUES, hf), "float32")


def test_the_class_reads_ranks_as_from_hugging_face(tmp_path: Path) -> None:
    hf = write_meta_folder(tmp_path / "meta", 2)
    for rank in range(2):
        mapping = Mapping(tp_size=2, rank=rank)
        ours = LLaMAForCausalLM.from_meta_ckpt(tmp_path / "meta", "float16", mapping, max_position_embeddings=64)
        theirs = LLaMAForCausalLM.from_hugging_face(MemorySource(VALUES, hf), "float16", mapping)
        assert ours.config == theirs.config
        assert all(torch.equal(ours.weights[name], theirs.weights[name]) for name in theirs.weights)


def test_rotating_pairs_there_is_rotating_halves_here() -> None:
    """Scores of rotated queries and keys, by complex numbers in Meta's order and by halves in Hugging Face's."""
    generator, head = torch.Generator().manual_seed(0), 8
    query, key = (torch.randn(2 * head, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    x = torch.randn(5, 16, generator=generator, dtype=torch.float64)
    angles = torch.arange(5)[:, None] * 10000.0 ** (-torch.arange(0, head, 2).double() / head)  # (tokens, pairs)

    def metas(weight: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex((x @ weight.t()).view(5, 2, head // 2, 2))
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)[:, None]).flatten(-2)

    def halves(weight: torch.Tensor) -> torch.Tensor:
        heads = (x @ weight.t()).view(5, 2, head)
        cos, sin = (torch.cat([table, table], -1)[:, None] for table in (angles.cos(), angles.sin()))
        turned = torch.cat([-heads[..., head // 2 :], heads[..., : head // 2]], -1)
        return heads * cos + turned * sin

    scores = torch.einsum("qhd,khd->hqk", metas(query), metas(key))
    ours = torch.einsum("qhd,khd->hqk", halves(halves_from_pairs(query, head)), halves(halves_from_pairs(key, head)))
    torch.testing.assert_close(ours, scores)  # float64


@pytest.mark.parametrize(
    ("params", "width"),
    [
        ({"dim": 4096, "multiple_of": 256}, 11008),  # LLaMA 7B
        ({"dim": 8192, "multiple_of": 4096, "ffn_dim_multiplier": 1.3}, 28672),  # LLaMA 2 70B
        ({"dim": 4096, "multiple_of": 1024, "ffn_dim_multiplier": 1.3}, 14336),  # LLaMA 3 8B
        ({"dim": 2048, "multiple_of": 256, "ffn_dim_multiplier": 1.5}, 8192),  # LLaMA 3.2 1B
        ({"dim": 64, "hidden_dim": 100}, 100),
    ],
)
def test_widths_of_published_models(params: dict[str, Any], width: int) -> None:
    assert intermediate_size(HfConfig(params)) == width


@pytest.mark.parametrize(
    ("params", "positions", "base", "factor"),
    [
        ({}, 2048, 10000.0, None),
        ({"rope_theta": 500000.0}, 8192, 500000.0, None),
        ({"rope_theta": 500000.0, "use_scaled_rope": True, "rope_scaling_factor": 8}, 131072, 500000.0, 8.0),
    ],
)
def test_rotation_and_length(
    tmp_path: Path, params: dict[str, Any], positions: int, base: float, factor: float | None
) -> None:
    write_meta_folder(tmp_path / "meta", **params)
    config = config_from_source(open_meta_folder(tmp_path / "meta"))
    assert (config.max_position_embeddings, config.rotary_base) == (positions, base)
    assert (config.rotary_scaling or {}).get("factor") == factor


def test_a_model_without_a_head_of_its_own_is_tied(tmp_path: Path) -> None:
    write_meta_folder(tmp_path / "meta")
    path = tmp_path / "meta" / "consolidated.00.pth"
    shard = torch.load(path, weights_only=True)
    del shard["output.weight"]
    torch.save(shard, path)
    model = LLaMAForCausalLM.from_meta_ckpt(tmp_path / "meta")
    assert model.config.tie_word_embeddings
    assert torch.equal(model.weights["lm_head.weight"], model.weights["transformer.vocab_embedding.weight"])


@pytest.mark.parametrize(
    ("params", "word"),
    [
        ({"moe_args": {}}, "moe_args"),
        ({"dim": "wide"}, "dim"),
        ({"n_heads": 5}, "n_heads 5"),
        ({"n_kv_heads": 1}, "n_kv_heads 1"),
        ({"use_scaled_rope": True}, "rope_scaling_factor"),
        ({"norm_eps": None}, "norm_eps"),
        ({"n_layers": 3}, "missing"),
        ({"n_layers": 1}, "not part of"),
        ({"multiple_of": 7}, "mlp.gate_proj"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(tmp_path: Path, params: dict[str, Any], word: str) -> None:
    write_meta_folder(tmp_path / "meta", 2, **params)
    with pytest.raises(TrtbenchError) as caught:
        LLaMAForCausalLM.from_meta_ckpt(tmp_path / "meta")
    assert word in str(caught.value)


def test_incomplete_folders_are_refused(tmp_path: Path) -> None:
    write_meta_folder(tmp_path / "meta", 2)
    with pytest.raises(IntakeError, match="no such folder"):
        open_meta_folder(tmp_path / "absent")
    second = tmp_path / "meta" / "consolidated.01.pth"
    shard = torch.load(second, weights_only=True)
    torch.save({name: tensor for name, tensor in shard.items() if "w2" not in name}, second)
    with pytest.raises(IntakeError, match="some shards"):
        open_meta_folder(tmp_path / "meta")
    second.write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(IntakeError, match="truncated"):
        open_meta_folder(tmp_path / "meta")
    second.rename(tmp_path / "meta" / "consolidated.02.pth")
    with pytest.raises(IntakeError, match=r"consolidated\.01\.pth is missing"):
        open_meta_folder(tmp_path / "meta")
    (tmp_path / "meta" / "params.json").unlink()
    with pytest.raises(IntakeError, match=r"no params\.json"):
        open_meta_folder(tmp_path / "meta")
