"""The two demo architectures, at sizes that shard, quantize and ship.

Both have 4 layers of width 256: heads divide by 4 and layers by 4 (tensor and pipeline parallel demos), every linear
input is a multiple of 128 (INT4 groups), and the float16 file stays under 12 MB.
"""

from __future__ import annotations

from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedConfig, PreTrainedModel

from .tokenizer import MAX_POSITIONS, VOCAB_SIZE

FAMILIES = ("gpt2", "llama")


def model_config(family: str, end_id: int) -> PreTrainedConfig:
    """Return the configuration of a family's demo model."""
    ids = {"bos_token_id": end_id, "eos_token_id": end_id}
    if family == "gpt2":
        # No dropout: each text is seen at most a few times.
        return GPT2Config(
            vocab_size=VOCAB_SIZE,
            n_positions=MAX_POSITIONS,
            n_embd=256,
            n_layer=4,
            n_head=4,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            **ids,
        )
    return LlamaConfig(
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=MAX_POSITIONS,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        **ids,
    )


def new_model(family: str, end_id: int) -> PreTrainedModel:
    """Return a model with random weights."""
    return AutoModelForCausalLM.from_config(model_config(family, end_id))
