"""Presets name fields that exist, stand without conflict, and say what the field's tools did by default."""

from __future__ import annotations

import pytest

from trtbench_lab.specs import PluginConfig, find_conflicts
from trtbench_lab.specs.presets import PLUGIN_PRESETS, PRESETS, QUANT_PRESETS
from trtbench_lab.specs.requests import QuantizeSpec

NAMES = ("fastest", "smallest", "safest", "trtllm-0.8", "trtllm-0.16")

# What trtllm-build of TensorRT-LLM 0.16 does when no flag is given.
DEFAULTS_016 = {
    "gpt_attention_plugin": "auto",
    "gemm_plugin": "disable",
    "rmsnorm_plugin": "disable",
    "layernorm_plugin": "disable",
    "lookup_plugin": "disable",
    "nccl_plugin": "auto",
    "context_fmha": True,
    "context_fmha_fp32_acc": False,
    "multi_block_mode": "auto",
    "remove_input_padding": True,
    "paged_kv_cache": True,
    "tokens_per_block": 64,
    "use_inflight_batching": False,
}


@pytest.mark.parametrize("preset", PLUGIN_PRESETS, ids=lambda preset: preset.name)
def test_plugin_presets_stand(preset):
    assert find_conflicts(PluginConfig(**preset.changes)) == []


@pytest.mark.parametrize("preset", QUANT_PRESETS, ids=lambda preset: preset.name)
def test_quantization_presets_stand(preset):
    spec = QuantizeSpec(source="demo", **preset.changes)
    assert find_conflicts(spec, spec.quant_config) == []


def test_both_selectors_offer_the_same_five():
    assert all(tuple(preset.name for preset in presets) == NAMES for presets in PRESETS.values())


def test_the_defaults_of_016_are_those_of_its_builder():
    config = PluginConfig(**PLUGIN_PRESETS[4].changes)
    assert {name: getattr(config, name) for name in DEFAULTS_016} == DEFAULTS_016


def test_the_defaults_of_08_have_everything_off():
    config = PluginConfig(**PLUGIN_PRESETS[3].changes)
    for info in PluginConfig.options():
        assert getattr(config, info.name) in ("disable", False, config.tokens_per_block), info.name


def test_changes_are_changes():
    plugin_defaults, quant_defaults = PluginConfig(), QuantizeSpec(source="demo")
    for preset in PLUGIN_PRESETS:
        assert all(getattr(plugin_defaults, name) != value for name, value in preset.changes.items()), preset.name
    for preset in QUANT_PRESETS:
        config = quant_defaults.replace(**preset.changes)
        assert all(getattr(config, name) == value for name, value in preset.changes.items()), preset.name
