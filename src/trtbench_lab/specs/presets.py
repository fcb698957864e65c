"""Named sets of choices: what differs from a spec's defaults, and why one would take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .plugin import PluginConfig
from .requests import QuantizeSpec
from .spec import Spec


@dataclass(frozen=True)
class Preset:
    """One set of choices.

    Attributes
    ----------
    name, title
        For code and for people.
    why
        What it is good for and what it costs, as a sentence.
    changes
        Field → value, for fields that differ from the spec's defaults.
    """

    name: str
    title: str
    why: str
    changes: Mapping[str, Any]


_ALL_OFF = {
    "gpt_attention_plugin": "disable",
    "nccl_plugin": "disable",
    "context_fmha": False,
    "multi_block_mode": "disable",
    "remove_input_padding": False,
    "paged_kv_cache": False,
    "smooth_quant_gemm_plugin": "disable",
    "rmsnorm_quantization_plugin": "disable",
    "layernorm_quantization_plugin": "disable",
    "quantize_per_token_plugin": "disable",
    "quantize_tensor_plugin": "disable",
    "weight_only_quant_matmul_plugin": "disable",
    "weight_only_groupwise_quant_matmul_plugin": "disable",
}

PLUGIN_PRESETS: tuple[Preset, ...] = (
    Preset(
        "fastest",
        "Fastest",
        "Every kernel of the project's own; the build takes longer, since they are timed.",
        {"gemm_plugin": "auto", "rmsnorm_plugin": "auto", "layernorm_plugin": "auto", "swiglu_plugin": "auto"},
    ),
    Preset(
        "smallest",
        "Smallest",
        "Small cache blocks, so that hardly a slot of a sequence's last block is empty; more entries in the tables.",
        {"tokens_per_block": 16},
    ),
    Preset(
        "safest",
        "Safest",
        "Nothing but the backend's own layers, over a padded batch and a cache in one piece; slow, easy to check.",
        {
            "gpt_attention_plugin": "disable",
            "context_fmha": False,
            "remove_input_padding": False,
            "paged_kv_cache": False,
        },
    ),
    Preset(
        "trtllm-0.8",
        "TensorRT-LLM 0.8 default",
        "What its build.py did when no flag was given: every plugin and feature was off until asked for.",
        _ALL_OFF,
    ),
    Preset(
        "trtllm-0.16",
        "TensorRT-LLM 0.16 default",
        "What its trtllm-build did when no flag was given, and this project's own defaults.",
        {},
    ),
)

QUANT_PRESETS: tuple[Preset, ...] = (
    Preset(
        "fastest",
        "Fastest",
        "INT4 weights in groups of 64, the head too: the fewest bytes a step reads with good kernels everywhere.",
        {"qformat": "int4_wo", "group_size": 64, "quantize_lm_head": True},
    ),
    Preset(
        "smallest",
        "Smallest",
        "INT4 weights with a scale a channel, the head too, and an INT8 cache: a quarter of float16, and most damage.",
        {"qformat": "int4_wo", "quantize_lm_head": True, "kv_cache_dtype": "int8"},
    ),
    Preset(
        "safest",
        "Safest",
        "INT8 weights, activations as they are: half of float16, hardly to be told from the original.",
        {"qformat": "int8_wo"},
    ),
    Preset(
        "trtllm-0.8",
        "TensorRT-LLM 0.8 default",
        "No quantization, as its convert scripts did when no flag was given.",
        {"qformat": "full_prec"},
    ),
    Preset(
        "trtllm-0.16",
        "TensorRT-LLM 0.16 default",
        "No quantization, as its quantize.py did when no flag was given.",
        {"qformat": "full_prec"},
    ),
)

PRESETS: dict[type[Spec], tuple[Preset, ...]] = {PluginConfig: PLUGIN_PRESETS, QuantizeSpec: QUANT_PRESETS}
"""Spec class → its presets, in the order they are shown."""
