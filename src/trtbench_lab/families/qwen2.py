"""Qwen 2 and 2.5: LLaMA's layers with biases on q, k and v; Qwen 1.5 has the same architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .base import Family
from .hf_config import HfConfig
from .llama import ROTARY_BUFFERS, llama_fields, llama_weights
from .windows import uniform_window

if TYPE_CHECKING:
    from ..specs import ModelConfig


def _read(hf: HfConfig) -> dict[str, Any]:
    fields = llama_fields(hf)
    window = None
    if hf.flag("use_sliding_window", default=False):
        window = hf.count("sliding_window", default=None) if "sliding_window" in hf.values else 4096
    if window is not None and hf.get("layer_types", default=None) is None:
        # Without layer_types the first max_window_layers layers attend in full, the rest through the window.
        full = min(hf.count("max_window_layers", default=28, least=0), fields["num_hidden_layers"])
        rest = fields["num_hidden_layers"] - full
        types = ["full_attention"] * full + ["sliding_attention"] * rest
        hf = HfConfig({**hf.values, "layer_types": types}, hf.where)
    return {**fields, **_traits({}), "sliding_window": uniform_window(hf, window)}


def _traits(_: Mapping[str, Any]) -> dict[str, Any]:
    return {"norm_type": "rmsnorm", "gated_mlp": True, "qkv_bias": True, "dense_bias": False, "mlp_bias": False}


def _extras(config: ModelConfig) -> dict[str, Any]:
    return {"qwen_type": "qwen2", "attn_bias": True}


FAMILY = Family(
    name="qwen2",
    title="Qwen 2 and 2.5",
    architectures=("Qwen2ForCausalLM",),
    base_architectures=("Qwen2Model",),
    model_types=("qwen2",),
    read=_read,
    weights=llama_weights,
    traits=_traits,
    extras=_extras,
    prefix="model.",
    ignored=ROTARY_BUFFERS,
)
