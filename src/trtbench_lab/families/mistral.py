"""Mistral: LLaMA's layers with grouped heads and, in its first version, a sliding attention window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .base import Family
from .hf_config import HfConfig
from .llama import ROTARY_BUFFERS, llama_extras, llama_fields, llama_traits, llama_weights
from .windows import uniform_window

if TYPE_CHECKING:
    from ..specs import ModelConfig

# What Mistral's configuration class takes where config.json is silent.
_DEFAULT_WINDOW = 4096
_DEFAULT_KV_HEADS = 8


def _read(hf: HfConfig) -> dict[str, Any]:
    # An explicit null means no window; only a missing key means the class's default.
    window = hf.count("sliding_window", default=None) if "sliding_window" in hf.values else _DEFAULT_WINDOW
    return {
        **llama_fields(hf, kv_heads=_DEFAULT_KV_HEADS),
        "qkv_bias": False,
        "dense_bias": False,
        "mlp_bias": False,
        "sliding_window": uniform_window(hf, window),
    }


def _traits(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {**llama_traits(raw), "sliding_window": raw.get("sliding_window")}


def _extras(config: ModelConfig) -> dict[str, Any]:
    return llama_extras(config)


FAMILY = Family(
    name="mistral",
    title="Mistral",
    architectures=("MistralForCausalLM",),
    base_architectures=("MistralModel",),
    model_types=("mistral",),
    read=_read,
    weights=llama_weights,
    traits=_traits,
    extras=_extras,
    prefix="model.",
    ignored=ROTARY_BUFFERS,
)
