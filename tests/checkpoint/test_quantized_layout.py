"""Tensors of quantized layers, written out by hand for a small LLaMA on the second of two ranks."""

from __future__ import annotations

from typing import Any

import pytest

from trtbench_lab.checkpoint import expected_tensors
from trtbench_lab.specs import Mapping, ModelConfig

LLAMA: dict[str, Any] = {
    "architecture": "LlamaForCausalLM", "dtype": "float16", "vocab_size": 128, "max_position_embeddings": 64,
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2,
    "intermediate_size": 128, "position_embedding_type": "rope_gpt_neox", "norm_type": "rmsnorm", "gated_mlp": True,
    "qkv_bias": False, "dense_bias": False, "mlp_bias": False, "hidden_act": "silu",
}  # fmt: skip
GROUPS = {"group_size": 32}


def layer_tensors(**quantization: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    config = ModelConfig(**LLAMA, quantization=quantization, mapping=Mapping(tp_size=2, rank=1))
    prefix = "transformer.layers.1."
    return {n.removeprefix(prefix): found for n, found in expected_tensors(config).items() if n.startswith(prefix)}


@pytest.mark.parametrize(
    ("quantization", "qkv", "proj"),
    [
        (
            {"quant_algo": "W4A16_AWQ", "pre_quant_scale": True, **GROUPS},
            {"weight": ((48, 32), "int8"), "weights_scaling_factor": ((48, 2), "float16"),
             "prequant_scaling_factor": ((64,), "float16")},
            {"weight": ((64, 32), "int8"), "weights_scaling_factor": ((64, 2), "float16"),
             "prequant_scaling_factor": ((64,), "float16")},  # this rank's 64 of 128 input features
        ),
        (
            {"quant_algo": "W4A8_AWQ", "pre_quant_scale": True, **GROUPS},
            {"weight": ((48, 32), "int8"), "weights_scaling_factor": ((48, 2), "float16"),
             "prequant_scaling_factor": ((64,), "float16"), "activation_scaling_factor": ((1,), "float32")},
            {"weight": ((64, 32), "int8"), "weights_scaling_factor": ((64, 2), "float16"),
             "prequant_scaling_factor": ((64,), "float16"), "activation_scaling_factor": ((1,), "float32")},
        ),
        (
            {"quant_algo": "W4A16_GPTQ", "has_zero_point": True, **GROUPS},
            {"weight": ((48, 32), "int8"), "weights_scaling_factor": ((48, 2), "float16"),
             "zero": ((48, 2), "float16")},
            {"weight": ((64, 32), "int8"), "weights_scaling_factor": ((64, 2), "float16"),
             "zero": ((64, 2), "float16")},
        ),
        (
            {"quant_algo": "W8A16", "has_zero_point": True, **GROUPS},
            {"weight": ((48, 64), "int8"), "weights_scaling_factor": ((48, 2), "float16"),
             "zero": ((48, 2), "float16")},
            {"weight": ((64, 64), "int8"), "weights_scaling_factor": ((64, 2), "float16"),
             "zero": ((64, 2), "float16")},
        ),
        (
            {"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"},
            {"weight": ((48, 64), "float8_e4m3fn"), "per_channel_scale": ((48,), "float32")},
            {"weight": ((64, 64), "float8_e4m3fn"), "per_channel_scale": ((64,), "float32")},
        ),
        (
            {"quant_algo": "FP8"},
            {"weight": ((48, 64), "float8_e4m3fn"), "weights_scaling_factor": ((1,), "float32"),
             "activation_scaling_factor": ((1,), "float32")},
            {"weight": ((64, 64), "float8_e4m3fn"), "weights_scaling_factor": ((1,), "float32"),
             "activation_scaling_factor": ((1,), "float32")},
        ),
        (
            {"quant_algo": "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"},
            {"weight": ((48, 64), "int8"), "per_channel_scale": ((48,), "float32")},
            {"weight": ((64, 64), "int8"), "per_channel_scale": ((64,), "float32"), "smoother": ((64,), "float32")},
        ),
        (
            {"quant_algo": "W8A8_SQ_PER_TENSOR_PLUGIN"},
            {"weight": ((48, 64), "int8"), "per_channel_scale": ((1,), "float32"), "act_scale": ((1,), "float32")},
            {"weight": ((64, 64), "int8"), "per_channel_scale": ((1,), "float32"), "act_scale": ((1,), "float32"),
             "smoother": ((64,), "float32")},
        ),
    ],
)  # fmt: skip
def test_tensors_of_a_rank_by_hand(quantization: dict[str, Any], qkv: dict[str, Any], proj: dict[str, Any]) -> None:
    found = layer_tensors(**quantization)
    assert {n.removeprefix("attention.qkv."): x for n, x in found.items() if n.startswith("attention.qkv.")} == qkv
    assert {n.removeprefix("mlp.proj."): x for n, x in found.items() if n.startswith("mlp.proj.")} == proj


@pytest.mark.parametrize("algo", ["INT8", "FP8"])
def test_a_quantized_cache_has_one_scale_a_layer(algo: str) -> None:
    found = layer_tensors(kv_cache_quant_algo=algo)
    assert found["attention.kv_cache_scaling_factor"] == ((1,), "float32")
    assert found["attention.qkv.weight"] == ((48, 64), "float16")
