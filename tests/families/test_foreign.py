from __future__ import annotations

from typing import Any

import pytest

from trtbench_lab.errors import TrtbenchError
from trtbench_lab.families import complete_config, config_to_json, family_for_hf
from trtbench_lab.specs import Mapping, QuantAlgo, QuantConfig

from . import tiny

# As TensorRT-LLM 0.16 writes it for a LLaMA: no traits, a group size that means nothing, its own extra keys.
FOREIGN_LLAMA: dict[str, Any] = {
    "mlp_bias": False, "attn_bias": False, "rotary_base": 500000.0, "rotary_scaling": None, "residual_mlp": False,
    "disable_weight_only_quant_plugin": False, "remove_duplicated_kv_heads": False, "architecture": "LlamaForCausalLM",
    "dtype": "float16", "vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "hidden_act": "silu", "logits_dtype": "float32", "norm_epsilon": 1e-05, "position_embedding_type": "rope_gpt_neox",
    "max_position_embeddings": 256, "num_key_value_heads": 2, "intermediate_size": 96,
    "mapping": {"world_size": 2, "gpus_per_node": 8, "cp_size": 1, "tp_size": 2, "pp_size": 1, "moe_tp_size": 2,
                "moe_ep_size": 1, "auto_parallel": False},
    "quantization": {"quant_algo": "W8A16", "kv_cache_quant_algo": None, "group_size": 128, "smoothquant_val": 0.5,
                     "clamp_val": None, "use_meta_recipe": False, "has_zero_point": False, "pre_quant_scale": False,
                     "exclude_modules": ["lm_head"]},
    "use_parallel_embedding": False, "embedding_sharding_dim": 0, "head_size": 16, "qk_layernorm": False,
    "rotary_embedding_dim": 16, "fc_after_embed": False, "use_input_layernorm_in_first_layer": True,
    "use_last_layernorm": True, "layer_idx_offset": 0, "tie_word_embeddings": False, "producer": {"name": "modelopt"},
    "moe": {"num_experts": 0, "top_k": 0, "normalization_mode": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", [*tiny.MODELS, "internlm", "santacoder"])
def test_config_json_reads_back_as_it_was_written(name: str) -> None:
    if name == "internlm":
        values = tiny.internlm()[0]
    elif name == "santacoder":
        values = tiny.santacoder()[0]
    else:
        values = tiny.config_json(tiny.MODELS[name]())
    quantization = QuantConfig(quant_algo=QuantAlgo.W4A16, group_size=32)
    config = family_for_hf(values).config_from_hf(values, "bfloat16", Mapping(tp_size=2, rank=1), quantization)
    written = config_to_json(config)
    assert "rank" not in written["mapping"]
    assert complete_config(written) == config.replace(mapping=config.mapping.with_rank(0))


def test_documented_keys_are_all_written() -> None:
    values = tiny.config_json(tiny.llama())
    written = config_to_json(family_for_hf(values).config_from_hf(values))
    documented = {
        "architecture", "dtype", "logits_dtype", "vocab_size", "max_position_embeddings", "hidden_size",
        "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_size", "hidden_act",
        "intermediate_size", "norm_epsilon", "position_embedding_type", "rotary_base", "rotary_scaling", "mapping",
        "quantization", "use_parallel_embedding", "embedding_sharding_dim", "share_embedding_table",
    }  # fmt: skip
    assert documented <= set(written)
    assert set(written["mapping"]) == {"world_size", "tp_size", "pp_size"}
    assert written["attn_bias"] is False  # without it TensorRT-LLM would build a LLaMA with the wrong biases


def test_a_checkpoint_of_tensorrt_llm_is_completed() -> None:
    config = complete_config(FOREIGN_LLAMA)
    assert (config.norm_type, config.gated_mlp, config.qkv_bias, config.dense_bias) == ("rmsnorm", True, False, False)
    assert (config.mapping.tp_size, config.mapping.world_size, config.kv_heads) == (2, 2, 2)
    assert config.quantization.quant_algo is QuantAlgo.W8A16
    assert config.quantization.group_size is None  # W8A16 goes by channels, whatever group_size says
    assert config.rotary_pct == 1.0


@pytest.mark.parametrize(
    ("architecture", "changes", "traits"),
    [
        ("GPT2LMHeadModel", {"position_embedding_type": "learned_absolute"}, ("layernorm", False, True, True, True)),
        ("Qwen2ForCausalLM", {"qwen_type": "qwen2", "seq_length": 8192}, ("rmsnorm", True, True, False, False)),
        ("InternLMForCausalLM", {"attn_bias": True}, ("rmsnorm", True, True, True, False)),
        ("LlamaForCausalLM", {"attn_bias": True, "mlp_bias": True}, ("rmsnorm", True, True, True, True)),
        ("MistralForCausalLM", {}, ("rmsnorm", True, False, False, False)),
        ("GPTBigCodeForCausalLM", {"gpt_variant": "starcoder", "bias": True}, ("layernorm", False, True, True, True)),
    ],
)
def test_traits_follow_the_family(architecture: str, changes: dict[str, Any], traits: tuple[Any, ...]) -> None:
    raw = {key: value for key, value in FOREIGN_LLAMA.items() if key not in ("attn_bias", "mlp_bias")}
    config = complete_config({**raw, "architecture": architecture, **changes})
    assert (config.norm_type, config.gated_mlp, config.qkv_bias, config.dense_bias, config.mlp_bias) == traits


def test_a_rotated_share_of_the_head_is_kept() -> None:
    assert complete_config({**FOREIGN_LLAMA, "rotary_embedding_dim": 8}).rotary_pct == 0.5


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"qk_layernorm": True}, "qk_layernorm"),
        ({"residual_multiplier": 0.22}, "residual_multiplier"),
        ({"moe": {"num_experts": 8, "top_k": 2}}, "8 experts"),
        ({"architecture": "MixtralForCausalLM"}, "MixtralForCausalLM"),
        ({"architecture": 5}, "architecture"),
        ({"num_attention_head": 4}, "num_attention_heads"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"mapping": {"world_size": 2, "tp_size": 1, "cp_size": 2}}, "cp_size"),
        ({"quantization": {"quant_algo": "W8A17"}}, "W8A16"),
        ({"quantization": {"quant_algo": None, "use_meta_recipe": True}}, "use_meta_recipe"),
    ],
)
def test_what_the_decoder_does_not_compute_is_refused(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(TrtbenchError) as caught:
        complete_config({**FOREIGN_LLAMA, **changes}, where="c/config.json")
    assert word in str(caught.value)
    assert "c/config.json" in str(caught.value)
