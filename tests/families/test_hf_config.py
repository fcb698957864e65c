from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtbench_lab.errors import IntakeError, TrtbenchError
from trtbench_lab.families import family_for_hf
from trtbench_lab.specs import ModelConfig

from . import tiny

GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": 64,
    "n_embd": 32,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 16,
}
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4,
    "num_hidden_layers": 2, "intermediate_size": 48, "max_position_embeddings": 32,
}  # fmt: skip
QWEN2 = {**LLAMA, "architectures": ["Qwen2ForCausalLM"]}
MISTRAL = {**LLAMA, "architectures": ["MistralForCausalLM"], "num_key_value_heads": 2}
INTERNLM = {**LLAMA, "architectures": ["InternLMForCausalLM"]}
BIGCODE = {**GPT2, "architectures": ["GPTBigCodeForCausalLM"]}
SANTACODER = {**GPT2, "architectures": ["GPT2LMHeadCustomModel"], "attention_head_type": "multiquery"}
ROPE3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip


def config(values: dict[str, Any], **changes: Any) -> ModelConfig:
    merged = {**values, **changes}
    return family_for_hf(merged).config_from_hf(merged)


@pytest.mark.parametrize("name", tiny.MODELS)
def test_sizes_are_those_of_transformers(name: str) -> None:
    model = tiny.MODELS[name]()
    found = config(tiny.config_json(model))
    theirs = model.config
    assert found.hidden_size == theirs.hidden_size
    assert found.num_hidden_layers == theirs.num_hidden_layers
    assert found.num_attention_heads == theirs.num_attention_heads
    assert found.vocab_size == theirs.vocab_size
    assert found.max_position_embeddings == theirs.max_position_embeddings
    assert found.tie_word_embeddings == theirs.tie_word_embeddings
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    mlp = [shape for key, shape in shapes.items() if "mlp" in key and len(shape) == 2]
    assert found.mlp_width in mlp[0]


@pytest.mark.parametrize(
    ("minimal", "cls"),
    [
        (GPT2, "GPT2Config"),
        (LLAMA, "LlamaConfig"),
        ({**QWEN2, "num_key_value_heads": 2}, "Qwen2Config"),
        (
            {k: v for k, v in MISTRAL.items() if k != "num_key_value_heads"} | {"num_attention_heads": 8},
            "MistralConfig",
        ),
        (BIGCODE, "GPTBigCodeConfig"),
    ],
)
def test_what_a_short_config_leaves_out_is_what_transformers_takes(minimal: dict[str, Any], cls: str) -> None:
    import transformers

    theirs = getattr(transformers, cls)(**{k: v for k, v in minimal.items() if k != "architectures"})
    short, full = config(minimal), config({**theirs.to_dict(), "architectures": minimal["architectures"]})
    assert short == full


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 500000.0, "rope_scaling": ROPE3},  # transformers 4
        {"rope_parameters": {**ROPE3, "rope_theta": 500000.0}},  # transformers 5
        {"rope_theta": 500000.0, "rope_parameters": ROPE3},
    ],
)
def test_llama3_scaling_is_read_in_both_spellings(rope: dict[str, Any]) -> None:
    found = config(LLAMA, **rope)
    assert found.rotary_base == 500000.0
    assert found.rotary_scaling == {**ROPE3}
    assert found.rotary_scaling_type == "llama3"


@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_linear_scaling_is_read_in_both_spellings(key: str) -> None:
    found = config(LLAMA, rope_scaling={key: "linear", "factor": 4})
    assert (found.rotary_scaling_type, found.rotary_scaling["factor"]) == ("linear", 4.0)  # type: ignore[index]


@pytest.mark.parametrize(
    "rope", [{}, {"rope_scaling": None}, {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}]
)
def test_plain_rotation(rope: dict[str, Any]) -> None:
    found = config(LLAMA, **rope)
    assert (found.rotary_base, found.rotary_scaling) == (10000.0, None)


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_dtype_is_read_in_both_spellings(key: str) -> None:
    assert config(LLAMA, **{key: "bfloat16"}).dtype == "bfloat16"


def test_dtype_of_a_silent_config_is_float16_and_a_request_wins() -> None:
    family = family_for_hf(LLAMA)
    assert config(LLAMA).dtype == "float16"
    assert family.config_from_hf({**LLAMA, "dtype": "bfloat16"}, "fp32").dtype == "float32"
    with pytest.raises(IntakeError, match="float8"):
        family.config_from_hf(LLAMA, "float8")


@pytest.mark.parametrize(
    ("values", "changes", "window"),
    [
        (MISTRAL, {"sliding_window": 7}, 7),
        (MISTRAL, {"sliding_window": None}, None),
        (MISTRAL, {}, 4096),
        (QWEN2, {"sliding_window": 8}, None),
        (QWEN2, {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 0}, 8),
        (QWEN2, {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 2}, None),
        (QWEN2, {"sliding_window": 8, "use_sliding_window": True, "layer_types": ["sliding_attention"] * 2}, 8),
        (QWEN2, {"sliding_window": None, "use_sliding_window": True}, None),
    ],
)
def test_sliding_window(values: dict[str, Any], changes: dict[str, Any], window: int | None) -> None:
    assert config(values, **changes).sliding_window == window


def test_biases_and_heads_by_family() -> None:
    def traits(found: ModelConfig) -> tuple[bool, bool, bool, int]:
        return found.qkv_bias, found.dense_bias, found.mlp_bias, found.kv_heads

    assert traits(config(GPT2)) == (True, True, True, 4)
    assert traits(config(BIGCODE)) == (True, True, True, 1)
    assert traits(config(BIGCODE, multi_query=False)) == (True, True, True, 4)
    assert traits(config(SANTACODER)) == (True, True, True, 1)
    assert traits(config(LLAMA)) == (False, False, False, 4)
    assert traits(config(LLAMA, attention_bias=True, mlp_bias=True)) == (True, True, True, 4)
    assert traits(config(QWEN2, num_key_value_heads=2)) == (True, False, False, 2)
    assert traits(config(INTERNLM)) == (True, True, False, 4)
    assert traits(config(INTERNLM, bias=False)) == (False, False, False, 4)


@pytest.mark.parametrize(
    ("values", "changes", "word"),
    [
        (GPT2, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        (GPT2, {"scale_attn_weights": False}, "scale_attn_weights"),
        (GPT2, {"add_cross_attention": True}, "encoder"),
        (GPT2, {"activation_function": "swiglu_xyz"}, "swiglu_xyz"),
        (GPT2, {"n_embd": 30}, "n_head"),
        (GPT2, {"n_embd": None}, "n_embd"),
        (GPT2, {"n_layer": True}, "n_layer"),
        (GPT2, {"vocab_size": -3}, "vocab_size"),
        (GPT2, {"vocab_size": 10**400}, "vocab_size"),
        (GPT2, {"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon"),
        (SANTACODER, {"attention_head_type": "multisomething"}, "attention_head_type"),
        (LLAMA, {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        (LLAMA, {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        (LLAMA, {"rope_scaling": {"type": "linear"}}, "factor"),
        (LLAMA, {"rope_scaling": "linear"}, "rope_scaling"),
        (LLAMA, {"rope_parameters": {**ROPE3, "high_freq_factor": 0.5}}, "high_freq_factor"),
        (LLAMA, {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        (LLAMA, {"hidden_act": None, "quantization_config": {"quant_method": "awq"}}, "awq"),
        (LLAMA, {"attention_bias": "yes"}, "attention_bias"),
        (QWEN2, {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1}, "sliding_attention"),
        (QWEN2, {"layer_types": ["linear_attention"] * 2}, "linear_attention"),
        (INTERNLM, {"rotary": {"type": "yarn"}}, "yarn"),
        (INTERNLM, {"rotary": [1]}, "rotary"),
    ],
)
def test_what_would_be_silently_wrong_is_refused(values: dict[str, Any], changes: dict[str, Any], word: str) -> None:
    with pytest.raises(TrtbenchError) as caught:
        config(values, **changes)
    assert word in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"reorder_and_upcast_attn": True},
        {"scale_attn_by_inverse_layer_idx": False},
        {"attention_softmax_in_fp32": True},
    ],
)
def test_what_only_chooses_a_precision_is_accepted(changes: dict[str, Any]) -> None:
    assert config(GPT2, **changes) == config(GPT2)


def test_sharing_an_untied_head_is_refused() -> None:
    family = family_for_hf(LLAMA)
    with pytest.raises(IntakeError, match="tied"):
        family.config_from_hf(LLAMA, share_embedding_table=True)
    assert family.config_from_hf({**LLAMA, "tie_word_embeddings": True}, share_embedding_table=True)


def test_message_names_the_file() -> None:
    with pytest.raises(IntakeError) as caught:
        family_for_hf(GPT2).config_from_hf({**GPT2, "n_head": "four"}, where="models/x/config.json")
    assert str(caught.value).startswith("models/x/config.json: ")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = sorted({*GPT2, *LLAMA, "rope_scaling", "rope_parameters", "rope_theta", "sliding_window", "layer_types", "dtype",
               "head_dim", "use_sliding_window", "max_window_layers", "rotary", "bias", "activation_function",
               "num_key_value_heads", "tie_word_embeddings", "quantization_config", "multi_query"})  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    base=st.sampled_from([GPT2, LLAMA, QWEN2, MISTRAL, INTERNLM, BIGCODE, SANTACODER]),
    changes=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4),
)
def test_any_damaged_config_either_reads_or_is_refused_in_our_words(
    base: dict[str, Any], changes: dict[str, Any]
) -> None:
    merged = json.loads(json.dumps({**base, **changes}))
    try:
        found = family_for_hf(merged).config_from_hf(merged)
    except TrtbenchError:
        return
    assert found.hidden_size > 0
