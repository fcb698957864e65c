"""Small Hugging Face folders for the tests, written by the libraries whose files the package reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 32,
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-6,
}


def some_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """Six tensors of several types and shapes, a scalar and an empty one among them."""
    made = torch.Generator().manual_seed(seed)
    return {
        "model.embed_tokens.weight": torch.randn(32, 8, generator=made),
        "model.layers.0.self_attn.q_proj.weight": torch.randn(8, 8, generator=made).half(),
        "model.layers.0.mlp.up_proj.weight": torch.randn(16, 8, generator=made).bfloat16(),
        "model.norm.weight": torch.ones(8),
        "a.scalar": torch.tensor(7, dtype=torch.int64),
        "an.empty": torch.empty(0, 8),
    }


def write_config(folder: Path, **changes: Any) -> None:
    """Write config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**LLAMA, **changes}))


def write_single(folder: Path, tensors: dict[str, torch.Tensor], *, suffix: str = "safetensors") -> Path:
    """Write one weight file and config.json; return the weight file."""
    write_config(folder)
    if suffix == "safetensors":
        file = folder / "model.safetensors"
        save_file(tensors, file, metadata={"format": "pt"})
    else:
        file = folder / "pytorch_model.bin"
        torch.save(tensors, file)
    return file


def write_sharded(folder: Path, tensors: dict[str, torch.Tensor], *, suffix: str = "safetensors") -> list[Path]:
    """Write three shards, their index and config.json; return the shards."""
    write_config(folder)
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    files = [folder / f"{stem}-{number:05d}-of-00003.{suffix}" for number in (1, 2, 3)]
    parts: list[dict[str, torch.Tensor]] = [{}, {}, {}]
    for number, (name, tensor) in enumerate(tensors.items()):
        parts[number % 3][name] = tensor
    for file, part in zip(files, parts, strict=True):
        if suffix == "safetensors":
            save_file(part, file, metadata={"format": "pt"})
        else:
            torch.save(part, file)
    weight_map = {name: file.name for file, part in zip(files, parts, strict=True) for name in part}
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    return files
