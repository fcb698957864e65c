"""Random Hugging Face models of every family, taken through the real conversion, and a driver for executors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from trtbench_lab.backends.protocol import Executor, QuietReporter
from trtbench_lab.backends.registry import backend
from trtbench_lab.checkpoint import config_from_source, convert, open_checkpoint
from trtbench_lab.intake.huggingface import open_hf_folder
from trtbench_lab.specs import BuildConfig, Mapping, ModelConfig, PluginConfig, QuantConfig

VOCAB_SIZE = 97
MAX_POSITIONS = 64

_LLAMA = {
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": MAX_POSITIONS,
    "hidden_size": 64,  # heads of 16, the least that ONNX Runtime's fused attention turns
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}
_GPT2 = {"vocab_size": VOCAB_SIZE, "n_positions": MAX_POSITIONS, "n_embd": 64, "n_layer": 3, "n_head": 4}
_LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 500.0,
}


def _config(family: str, **changes: Any) -> Any:
    special = {"bos_token_id": None, "eos_token_id": None, **changes}
    if family == "gpt2":
        return transformers.GPT2Config(**{**_GPT2, **special})
    if family == "gpt_bigcode":
        return transformers.GPTBigCodeConfig(**{**_GPT2, "multi_query": True, **special})
    if family == "llama":
        return transformers.LlamaConfig(**{**_LLAMA, **special})
    if family == "llama-linear":
        linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0}
        return transformers.LlamaConfig(**{**_LLAMA, "rope_parameters": linear, **special})
    if family == "llama3":
        return transformers.LlamaConfig(**{**_LLAMA, "rope_parameters": _LLAMA3_SCALING, **special})
    if family == "internlm":
        return transformers.LlamaConfig(**{**_LLAMA, "num_key_value_heads": 4, "attention_bias": True, **special})
    if family == "qwen2":
        return transformers.Qwen2Config(**{**_LLAMA, "tie_word_embeddings": True, **special})
    if family == "mistral":
        return transformers.MistralConfig(**{**_LLAMA, "sliding_window": 6, "head_dim": 16, **special})
    raise KeyError(family)


FAMILIES = ("gpt2", "gpt_bigcode", "llama", "llama-linear", "llama3", "internlm", "qwen2", "mistral")


@dataclass(frozen=True)
class RandomModel:
    """A random model as Hugging Face runs it, and the folder it was saved to."""

    hf: Any
    folder: Path

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of every position, without a cache."""
        with torch.no_grad():
            return self.hf(tokens, use_cache=False).logits


def random_model(family: str, folder: Path, seed: int = 0, **changes: Any) -> RandomModel:
    """Make and save a model whose logits depend strongly on every token; `changes` are fields of its configuration.

    Default initialisation (0.02) gives nearly constant logits, which any decoder would match; biases and norms start
    at 0 and 1, where a missing or swapped one would not show.
    """
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(_config(family, **changes)).eval()
    for name, parameter in model.named_parameters():
        noise = torch.randn_like(parameter)
        parameter.data = 1 + 0.3 * noise if parameter.ndim == 1 and name.endswith("weight") else 0.3 * noise
    model.tie_weights()
    model.save_pretrained(folder)
    if family == "internlm":
        path = folder / "config.json"
        config = json.loads(path.read_text())
        config |= {"model_type": "internlm", "architectures": ["InternLMForCausalLM"], "bias": True}
        path.write_text(json.dumps(config))
    return RandomModel(model, folder)


def checkpoint_of(model: RandomModel, folder: Path, **options: Any) -> ModelConfig:
    """Convert `model` in float32 and return the checkpoint's configuration."""
    source = open_hf_folder(model.folder)
    convert(source, folder, config=config_from_source(source, dtype="float32", **options))
    return open_checkpoint(folder).config


PADDED = BuildConfig(
    plugin_config=PluginConfig(
        gpt_attention_plugin="disable", context_fmha=False, remove_input_padding=False, paged_kv_cache=False
    )
)
"""Options of an engine of the padded form, which is the default on a CPU only."""


@dataclass(frozen=True)
class Described:
    """What `Builder.load` reads of an engine folder's configuration."""

    pretrained_config: ModelConfig
    build_config: BuildConfig


def built_executor(
    name: str, device: str, checkpoint: Path, folder: Path, build_config: BuildConfig | None = None
) -> Executor:
    """Resolve, build and load one rank with the backend `name`."""
    builder = backend(name)
    config = open_checkpoint(checkpoint).config
    resolved = builder.resolve(config, build_config or PADDED).build_config
    folder.mkdir(parents=True, exist_ok=True)
    builder.build(checkpoint, 0, resolved, folder, QuietReporter())
    return builder.load(folder, 0, Described(config, resolved), device=device)


class Driver:
    """Runs an executor over caches of its own.

    Unused cache slots start with noise as large as real keys, so that a slot seen by mistake changes the logits.
    """

    def __init__(self, executor: Executor, batch: int, capacity: int):
        self.executor = executor
        generator = torch.Generator().manual_seed(7)
        self.caches: dict[str, torch.Tensor] = {}
        for spec in executor.io:
            if spec.name.startswith("past_"):
                shape = (batch, spec.shape[1], capacity, spec.shape[3])
                noise = 3 * torch.randn(shape, generator=generator)
                self.caches[spec.name] = noise.to(executor.device, getattr(torch, spec.dtype))
        self.lengths = torch.zeros(batch, dtype=torch.int64)

    def step(self, tokens: torch.Tensor, wanted: torch.Tensor | None = None) -> torch.Tensor:
        """Append `tokens` (B, T) and return the logits at `wanted` (B, K), of every position when None."""
        batch, length = tokens.shape
        if wanted is None:
            wanted = torch.arange(length).repeat(batch, 1)
        device = self.executor.device
        logits = torch.full((batch, wanted.shape[1], self.executor.config.vocab_size), float("nan"), device=device)
        bound = {
            "input_ids": tokens.contiguous().to(device),
            "write_indices": self.lengths.to(device),
            "logit_indices": wanted.contiguous().to(device),
            "logits": logits,
            **self.caches,
        }
        for name, tensor in bound.items():
            self.executor.bind(name, tensor)
        self.executor.run()
        self.executor.synchronize()
        self.lengths = self.lengths + length
        return logits.cpu()


__all__ = [
    "FAMILIES",
    "MAX_POSITIONS",
    "VOCAB_SIZE",
    "Described",
    "Driver",
    "Mapping",
    "QuantConfig",
    "RandomModel",
    "built_executor",
    "checkpoint_of",
    "random_model",
]
