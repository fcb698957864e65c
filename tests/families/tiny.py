"""Hugging Face models of every family at a size for tests, with random weights in every tensor, biases included."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTBigCodeConfig,
    GPTBigCodeForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

VOCAB = 101
_GPT = {
    "vocab_size": VOCAB, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
_LLAMA = {
    "vocab_size": VOCAB, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2,
    "intermediate_size": 48, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip


def filled(model: Any) -> Any:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def gpt2(**options: Any) -> Any:
    return filled(GPT2LMHeadModel(GPT2Config(**{**_GPT, **options})))


def llama(**options: Any) -> Any:
    return filled(LlamaForCausalLM(LlamaConfig(**{**_LLAMA, **options})))


def qwen2(**options: Any) -> Any:
    return filled(Qwen2ForCausalLM(Qwen2Config(**{**_LLAMA, "num_key_value_heads": 2, **options})))


def mistral(**options: Any) -> Any:
    return filled(
        MistralForCausalLM(MistralConfig(**{**_LLAMA, "num_key_value_heads": 2, "sliding_window": 8, **options}))
    )


def bigcode(**options: Any) -> Any:
    return filled(GPTBigCodeForCausalLM(GPTBigCodeConfig(**{**_GPT, **options})))


# Name → model of transformers, whose state and config.json the tests read.
MODELS = {
    "gpt2": gpt2,
    "gpt2-relu-narrow": lambda: gpt2(activation_function="relu", n_inner=48),
    "llama1": lambda: llama(num_key_value_heads=4),
    "llama2-gqa": lambda: llama(num_key_value_heads=2, tie_word_embeddings=True),
    "llama3": lambda: llama(num_key_value_heads=2, rope_parameters=dict(LLAMA3_ROPE)),
    "llama-linear": lambda: llama(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}),
    "llama-biases-wide-heads": lambda: llama(attention_bias=True, mlp_bias=True, head_dim=16),
    "qwen2": qwen2,
    "mistral": mistral,
    "starcoder": bigcode,
    "bigcode-multi-head": lambda: bigcode(multi_query=False),
}


def config_json(model: Any) -> dict[str, Any]:
    """Return what transformers would save as config.json."""
    values = model.config.to_dict()
    return {**values, "architectures": [type(model).__name__]}


def state(model: Any) -> dict[str, torch.Tensor]:
    """Return the tensors that transformers would save: a tied head only once."""
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight")
    return tensors


def internlm(bias: bool = True) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return config.json and tensors of an InternLM: LLaMA's arithmetic with biases on q, k, v and o."""
    model = llama(attention_bias=bias)
    values = config_json(model)
    for name in ("attention_bias", "rope_parameters", "num_key_value_heads", "head_dim", "mlp_bias"):
        values.pop(name, None)
    values |= {"architectures": ["InternLMForCausalLM"], "model_type": "internlm", "bias": bias}
    return {**values, "rotary": {"base": 10000, "type": "dynamic"}, "auto_map": {"AutoModel": "x.Y"}}, state(model)


def santacoder() -> tuple[dict[str, Any], dict[str, torch.Tensor], Any]:
    """Return config.json and tensors of SantaCoder's original files, and the same model as a GPTBigCode."""
    model = bigcode()
    hidden, head = model.config.n_embd, model.config.n_embd // model.config.n_head
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in state(model).items():
        if ".attn.c_attn." in name:
            turned = tensor.t() if tensor.ndim == 2 else tensor
            tensors[name.replace("c_attn", "q_attn")] = turned[..., :hidden].contiguous()
            tensors[name.replace("c_attn", "kv_attn")] = turned[..., hidden : hidden + 2 * head].contiguous()
        elif name.endswith(("c_proj.weight", "c_fc.weight")):
            tensors[name] = tensor.t().contiguous()
        else:
            tensors[name] = tensor
    values = {
        **_GPT, "architectures": ["GPT2LMHeadCustomModel"], "model_type": "gpt2", "attention_head_type": "multiquery",
        "activation_function": "gelu_fast", "auto_map": {"AutoModelForCausalLM": "modeling_gpt2_mq.X"},
    }  # fmt: skip
    return values, tensors, model
