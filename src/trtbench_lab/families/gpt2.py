"""GPT-2: learned positions, LayerNorm, GELU, linear layers stored transposed, head tied to the embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .base import BLOCK, Family, Sources, conv1d, norm, tied_head
from .hf_config import HfConfig

if TYPE_CHECKING:
    from ..specs import ModelConfig

_SOURCE = "transformer.h.{layer}"


def gpt_fields(hf: HfConfig, *, default_act: str) -> dict[str, Any]:
    """Return what GPT-2 and its multi-query relatives share; refuse the variants of attention it could be set to."""
    hf.refuse("scale_attn_weights", True, "attention scores are always divided by the square root of the head size")
    hf.refuse("scale_attn_by_inverse_layer_idx", False, "attention scores are not scaled by the layer's number")
    hf.refuse("add_cross_attention", False, "the decoder has no encoder to attend to")
    # reorder_and_upcast_attn, attention_softmax_in_fp32 and scale_attention_softmax_in_fp32 only choose the precision
    # in which the same formula is computed.
    heads, hidden, head_size = hf.heads("n_head", "n_embd")
    return {
        "vocab_size": hf.count("vocab_size"),
        "max_position_embeddings": hf.count("n_positions", "n_ctx"),
        "hidden_size": hidden,
        "num_hidden_layers": hf.count("n_layer"),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_size": head_size,
        "hidden_act": hf.activation("activation_function", default=default_act),
        "intermediate_size": hf.count("n_inner", default=4 * hidden),
        "norm_epsilon": hf.number("layer_norm_epsilon", default=1e-5),
        "position_embedding_type": "learned_absolute",
        "tie_word_embeddings": hf.flag("tie_word_embeddings", default=True),
        **gpt_traits({}),
    }


def gpt_traits(_: Mapping[str, Any]) -> dict[str, Any]:
    """Return the traits of every GPT-2 relative."""
    return {
        "norm_type": "layernorm",
        "gated_mlp": False,
        "qkv_bias": True,
        "dense_bias": True,
        "mlp_bias": True,
    }


def gpt_edges(config: ModelConfig) -> tuple[dict[str, Sources], dict[str, Sources]]:
    """Return the entries before and after the layers."""
    first: dict[str, Sources] = {
        "transformer.vocab_embedding.weight": "transformer.wte.weight",
        "transformer.position_embedding.weight": "transformer.wpe.weight",
    }
    last = norm("transformer.ln_f", "transformer.ln_f", bias=True) | tied_head(config, "transformer.wte.weight")
    return first, last


def _weights(config: ModelConfig) -> dict[str, Sources]:
    first, last = gpt_edges(config)
    return {
        **first,
        **norm(f"{BLOCK}.input_layernorm", f"{_SOURCE}.ln_1", bias=True),
        **conv1d(f"{BLOCK}.attention.qkv", f"{_SOURCE}.attn.c_attn"),
        **conv1d(f"{BLOCK}.attention.dense", f"{_SOURCE}.attn.c_proj"),
        **norm(f"{BLOCK}.post_layernorm", f"{_SOURCE}.ln_2", bias=True),
        **conv1d(f"{BLOCK}.mlp.fc", f"{_SOURCE}.mlp.c_fc"),
        **conv1d(f"{BLOCK}.mlp.proj", f"{_SOURCE}.mlp.c_proj"),
        **last,
    }


FAMILY = Family(
    name="gpt2",
    title="GPT-2",
    architectures=("GPT2LMHeadModel", "GPTForCausalLM"),
    base_architectures=("GPT2Model", "GPT2DoubleHeadsModel"),
    model_types=("gpt2",),
    read=lambda hf: gpt_fields(hf, default_act="gelu_new"),
    weights=_weights,
    traits=gpt_traits,
    extras=lambda config: {"gpt_variant": "gpt2", "bias": True},
    prefix="transformer.",
    # causal masks that old files carry as buffers; the second head of GPT2DoubleHeadsModel takes no part in generation
    ignored=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)", r"(transformer\.)?multiple_choice_head\..*"),
)
