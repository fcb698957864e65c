"""LLaMA 1, 2 and 3: rotary positions, RMSNorm, gated SiLU MLP, grouped key/value heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .base import BLOCK, Family, Sources, linear, norm, stacked, tied_head
from .hf_config import HfConfig

if TYPE_CHECKING:
    from ..specs import ModelConfig

_SOURCE = "model.layers.{layer}"

# Rotary frequencies that files written before transformers 4.32 carry as buffers.
ROTARY_BUFFERS = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)


def llama_fields(hf: HfConfig, *, kv_heads: int | None = None, norm_epsilon: float = 1e-6) -> dict[str, Any]:
    """Return what every relative of LLaMA shares.

    Parameters
    ----------
    hf
        The configuration.
    kv_heads
        Key/value heads where config.json does not say; None for as many as query heads.
    norm_epsilon
        Epsilon of the norm where config.json does not say.
    """
    heads, hidden, head_size = hf.heads("num_attention_heads", "hidden_size")
    base, scaling = hf.rope()
    return {
        "vocab_size": hf.count("vocab_size"),
        "max_position_embeddings": hf.count("max_position_embeddings"),
        "hidden_size": hidden,
        "num_hidden_layers": hf.count("num_hidden_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": hf.count("num_key_value_heads", default=kv_heads or heads),
        "head_size": head_size,
        "hidden_act": hf.activation("hidden_act", default="silu"),
        "intermediate_size": hf.count("intermediate_size"),
        "norm_epsilon": hf.number("rms_norm_eps", default=norm_epsilon),
        "position_embedding_type": "rope_gpt_neox",
        "rotary_base": base,
        "rotary_scaling": scaling,
        "tie_word_embeddings": hf.flag("tie_word_embeddings", default=False),
        "norm_type": "rmsnorm",
        "gated_mlp": True,
    }


def llama_weights(config: ModelConfig) -> dict[str, Sources]:
    """Return the weight map of LLaMA's names; which biases exist is in the configuration."""
    query, key_value = config.attention_width, config.kv_heads * config.head_width
    attention = f"{_SOURCE}.self_attn"
    qkv = {f"{attention}.q_proj": query, f"{attention}.k_proj": key_value, f"{attention}.v_proj": key_value}
    return {
        "transformer.vocab_embedding.weight": "model.embed_tokens.weight",
        **norm(f"{BLOCK}.input_layernorm", f"{_SOURCE}.input_layernorm", bias=False),
        **stacked(f"{BLOCK}.attention.qkv", qkv, ("weight", "bias") if config.qkv_bias else ("weight",)),
        **linear(f"{BLOCK}.attention.dense", f"{attention}.o_proj", bias=config.dense_bias),
        **norm(f"{BLOCK}.post_layernorm", f"{_SOURCE}.post_attention_layernorm", bias=False),
        # TensorRT-LLM: `fc` is the activated branch, `gate` the one it is multiplied with
        **linear(f"{BLOCK}.mlp.fc", f"{_SOURCE}.mlp.gate_proj", bias=config.mlp_bias),
        **linear(f"{BLOCK}.mlp.gate", f"{_SOURCE}.mlp.up_proj", bias=config.mlp_bias),
        **linear(f"{BLOCK}.mlp.proj", f"{_SOURCE}.mlp.down_proj", bias=config.mlp_bias),
        **norm("transformer.ln_f", "model.norm", bias=False),
        **tied_head(config, "model.embed_tokens.weight"),
    }


def llama_traits(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the traits of a TensorRT-LLM checkpoint: `attn_bias` there speaks of q, k, v and the output alike."""
    attention_bias = bool(raw.get("attn_bias", False))
    return {
        "norm_type": "rmsnorm",
        "gated_mlp": True,
        "qkv_bias": attention_bias,
        "dense_bias": attention_bias,
        "mlp_bias": bool(raw.get("mlp_bias", False)),
    }


def llama_extras(config: ModelConfig) -> dict[str, Any]:
    """Return TensorRT-LLM's name of the attention's biases."""
    return {"attn_bias": config.qkv_bias}


def _read(hf: HfConfig) -> dict[str, Any]:
    attention_bias = hf.flag("attention_bias", default=False)
    return {
        **llama_fields(hf),
        "qkv_bias": attention_bias,
        "dense_bias": attention_bias,
        "mlp_bias": hf.flag("mlp_bias", default=False),
    }


FAMILY = Family(
    name="llama",
    title="LLaMA 1, 2 and 3",
    architectures=("LlamaForCausalLM", "LLaMAForCausalLM", "LLaMaForCausalLM"),
    base_architectures=("LlamaModel",),
    model_types=("llama",),
    read=_read,
    weights=llama_weights,
    traits=llama_traits,
    extras=llama_extras,
    prefix="model.",
    ignored=ROTARY_BUFFERS,
)
