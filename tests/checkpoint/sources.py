"""Small sources of weights and an independent way to join ranks again, in NumPy, for the tests of checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from trtbench_lab.checkpoint.source import MemorySource


def gpt2_values(
    hidden: int = 32, heads: int = 4, layers: int = 2, vocab: int = 101, positions: int = 32, **more: Any
) -> dict[str, Any]:
    """Return config.json of a GPT-2."""
    sizes = {"n_embd": hidden, "n_head": heads, "n_layer": layers, "vocab_size": vocab, "n_positions": positions}
    return {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "dtype": "float32", **sizes, **more}


def gpt2_tensors(
    values: Mapping[str, Any], seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """Return random weights of a GPT-2 under the names without prefix."""
    generator = torch.Generator().manual_seed(seed)
    hidden, inner = values["n_embd"], values.get("n_inner") or 4 * values["n_embd"]

    def random(*extents: int) -> torch.Tensor:
        return torch.randn(*extents, generator=generator).to(dtype)

    tensors = {"wte.weight": random(values["vocab_size"], hidden), "wpe.weight": random(values["n_positions"], hidden)}
    for layer in range(values["n_layer"]):
        for norm in ("ln_1", "ln_2"):
            tensors |= {f"h.{layer}.{norm}.weight": random(hidden), f"h.{layer}.{norm}.bias": random(hidden)}
        for name, rows, columns in (
            ("attn.c_attn", hidden, 3 * hidden), ("attn.c_proj", hidden, hidden),
            ("mlp.c_fc", hidden, inner), ("mlp.c_proj", inner, hidden),
        ):  # fmt: skip
            tensors[f"h.{layer}.{name}.weight"] = random(rows, columns)
            tensors[f"h.{layer}.{name}.bias"] = random(columns)
    return tensors | {"ln_f.weight": random(hidden), "ln_f.bias": random(hidden)}


def llama_values(
    heads: int = 4, kv_heads: int = 2, head_size: int = 8, hidden: int = 32, inner: int = 48, layers: int = 2,
    vocab: int = 101, **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """Return config.json of a LLaMA."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float32", "vocab_size": vocab,
        "hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_size,
        "num_hidden_layers": layers, "intermediate_size": inner, "max_position_embeddings": 64, **more,
    }  # fmt: skip


def llama_tensors(
    values: Mapping[str, Any], seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """Return random weights of a LLaMA."""
    generator = torch.Generator().manual_seed(seed)
    hidden, inner, head = values["hidden_size"], values["intermediate_size"], values["head_dim"]
    query, key = values["num_attention_heads"] * head, values["num_key_value_heads"] * head

    def random(*extents: int) -> torch.Tensor:
        return torch.randn(*extents, generator=generator).to(dtype)

    tensors = {"model.embed_tokens.weight": random(values["vocab_size"], hidden)}
    for layer in range(values["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        for name, rows, columns in (
            ("self_attn.q_proj", query, hidden), ("self_attn.k_proj", key, hidden), ("self_attn.v_proj", key, hidden),
            ("self_attn.o_proj", hidden, query), ("mlp.gate_proj", inner, hidden), ("mlp.up_proj", inner, hidden),
            ("mlp.down_proj", hidden, inner),
        ):  # fmt: skip
            tensors[f"{block}.{name}.weight"] = random(rows, columns)
            if values.get("attention_bias") and "self_attn" in name:
                tensors[f"{block}.{name}.bias"] = random(rows)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{block}.{norm}.weight"] = random(hidden)
    tensors["model.norm.weight"] = random(hidden)
    if not values.get("tie_word_embeddings"):
        tensors["lm_head.weight"] = random(values["vocab_size"], hidden)
    return tensors


def gpt2_source(seed: int = 0, **sizes: Any) -> MemorySource:
    values = gpt2_values(**sizes)
    return MemorySource(values, gpt2_tensors(values, seed))


def llama_source(seed: int = 0, **sizes: Any) -> MemorySource:
    values = llama_values(**sizes)
    return MemorySource(values, llama_tensors(values, seed))


def write_hf_folder(folder: Path, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    """Write config.json and model.safetensors."""
    import json

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(values))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def bits(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor's bit patterns: NumPy has no bfloat16, and equality shall be exact."""
    kind = {1: torch.int8, 2: torch.int16, 4: torch.int32}[tensor.dtype.itemsize]
    return tensor.contiguous().view(kind).numpy()


def rank_arrays(folder: Path, world: int) -> list[dict[str, np.ndarray]]:
    """Return the rank files' bit patterns, read by the safetensors library."""
    return [
        {name: bits(tensor) for name, tensor in load_file(folder / f"rank{rank}.safetensors").items()}
        for rank in range(world)
    ]


class Joiner:
    """Puts the ranks of a checkpoint together again from the rules alone; shares no code with the writer.

    Parameters
    ----------
    ranks
        Arrays by rank.
    tp, pp, layers, heads, kv_heads, head_size
        The model and its division.
    """

    def __init__(
        self,
        ranks: list[dict[str, np.ndarray]],
        tp: int,
        pp: int,
        layers: int,
        heads: int,
        kv_heads: int,
        head_size: int,
    ):
        self.ranks, self.tp, self.pp, self.layers = ranks, tp, pp, layers
        self.heads, self.kv_heads, self.head_size = heads, kv_heads, head_size

    def stage(self, index: int) -> list[dict[str, np.ndarray]]:
        return self.ranks[index * self.tp : (index + 1) * self.tp]

    def parts(self, name: str, layer: int | None = None, stage: int = 0) -> list[np.ndarray]:
        """Return one tensor of every rank of a group; `layer` counts over the whole model."""
        if layer is not None:
            stage, local = divmod(layer, self.layers // self.pp)
            name = f"transformer.layers.{local}.{name}"
        return [rank[name] for rank in self.stage(stage)]

    def whole(self, name: str, layer: int | None = None, stage: int = 0) -> np.ndarray:
        parts = self.parts(name, layer, stage)
        assert all(np.array_equal(part, parts[0]) for part in parts), f"{name} differs between ranks"
        return parts[0]

    def rows(self, name: str, layer: int | None = None, stage: int = 0) -> np.ndarray:
        return np.concatenate(self.parts(name, layer, stage), axis=0)

    def columns(self, name: str, layer: int | None = None, stage: int = 0) -> np.ndarray:
        return np.concatenate(self.parts(name, layer, stage), axis=1)

    def qkv(self, name: str, layer: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        parts = self.parts(name, layer)
        queries = self.heads // self.tp * self.head_size
        keys = max(1, self.kv_heads // self.tp) * self.head_size
        assert all(part.shape[0] == queries + 2 * keys for part in parts)
        copies = max(1, self.tp // self.kv_heads)
        for rank, part in enumerate(parts):  # ranks that share a key/value head hold the same rows
            assert np.array_equal(part[queries:], parts[rank // copies * copies][queries:])
        once = parts[::copies]
        return (
            np.concatenate([part[:queries] for part in parts]),
            np.concatenate([part[queries : queries + keys] for part in once]),
            np.concatenate([part[queries + keys :] for part in once]),
        )
