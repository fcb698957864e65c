"""The selectors without a browser: choices, conflicts and their remedies, presets, lines, comparisons."""

from __future__ import annotations

import json
import shlex

import pytest

pytest.importorskip("anywidget")

from trtbench_lab.errors import SpecError
from trtbench_lab.specs import BuildConfig, PluginConfig, QuantConfig
from trtbench_lab.specs.command_line import parse
from trtbench_lab.specs.conflicts import Gpu
from trtbench_lab.specs.presets import PRESETS
from trtbench_lab.specs.requests import QuantizeSpec
from trtbench_widgets.selector import PluginSelector, QuantSelector

from .messages import press


def plugins(**options):
    return PluginSelector(ask_backends=False, **options)


def quantization(**options):
    return QuantSelector(ask_backends=False, **options)


def test_every_field_of_the_spec_is_offered_with_its_words():
    shown = {option["name"]: option for option in plugins().options}
    assert list(shown) == [info.name for info in PluginConfig.options()]
    for info in PluginConfig.options():
        assert shown[info.name]["help"] == info.help
        assert shown[info.name]["since"] == info.meta.since


@pytest.mark.parametrize("off", ["context_fmha", "remove_input_padding", "paged_kv_cache"])
def test_a_conflict_comes_with_the_choice_and_goes_with_its_remedy(off):
    selector = plugins()
    press(selector, "set", name="gpt_attention_plugin", value="disable")
    mine = [one for one in selector.conflicts if off in one["fields"]]
    assert [one["severity"] for one in mine] == ["error"]
    labels = [fix["label"] for fix in mine[0]["fixes"]]
    assert labels == ["gpt_attention_plugin → auto", f"{off} → disable"]
    press(selector, "fix", changes=mine[0]["fixes"][1]["changes"])
    assert selector.values[off] is False
    assert not [one for one in selector.conflicts if off in one["fields"]]


@pytest.mark.parametrize("selector", [plugins, quantization])
def test_lines_read_back_as_the_choices(selector):
    chosen = selector()
    for preset in PRESETS[chosen.spec_type]:
        press(chosen, "preset", name=preset.name)
        verb, request = chosen.request()
        words = shlex.split(chosen.lines["shell"])
        assert words[:2] == ["trtbench", verb]
        again = parse(verb, words[2:]).spec
        assert again == request
        assert shlex.split(chosen.lines["magic"]) == [f"%trt_{verb}", *words[2:]]


def test_python_lines_make_the_same_request(monkeypatch):
    import trtbench_lab.workbench as workbench

    asked = []
    monkeypatch.setattr(workbench, "build", asked.append, raising=False)
    monkeypatch.setattr(workbench, "quantize", asked.append, raising=False)
    for chosen in (plugins(values={"gemm_plugin": "float16"}), quantization(values={"qformat": "int4_awq"})):
        exec(chosen.lines["python"], {})  # noqa: S102 - the very lines that a person copies
        assert asked.pop() == chosen.request()[1]


def test_presets_are_recognised_and_own_choices_are_not_called_one():
    selector = plugins()
    assert selector.preset == "trtllm-0.16"
    press(selector, "set", name="tokens_per_block", value=32)
    assert selector.preset == ""
    press(selector, "set", name="tokens_per_block", value=16)
    assert selector.preset == "smallest"


def test_a_wrong_value_changes_nothing_and_is_said():
    selector = plugins()
    before = dict(selector.values)
    press(selector, "set", name="tokens_per_block", value=17)
    assert "17" in selector.notice
    assert selector.values == before
    with pytest.raises(SpecError, match="cannot be chosen"):
        selector.choose(nonsense=1)


def test_a_format_that_the_gpu_lacks_has_the_nearest_one_as_remedy():
    selector = quantization(gpu=Gpu((8, 0), "A100"))
    press(selector, "set", name="qformat", value="fp8")
    conflict = selector.conflicts[0]
    assert conflict["fields"] == ["qformat"]
    press(selector, "fix", changes=conflict["fixes"][0]["changes"])
    assert selector.spec.qformat == "int8_wo"
    assert not [one for one in selector.conflicts if one["severity"] == "error"]


def test_an_int4_format_gives_the_checkpoint_table_of_its_request():
    selector = quantization(values={"qformat": "int4_awq", "group_size": 64})
    assert selector.quant_config == QuantizeSpec(source="x", qformat="int4_awq", group_size=64).quant_config


def test_another_engines_config_is_held_against_the_choices(tmp_path):
    theirs = PluginConfig(gemm_plugin="float16", tokens_per_block=32)
    build = BuildConfig(plugin_config=theirs)
    config = {
        "build_config": build.to_dict(),
        "pretrained_config": {"quantization": QuantConfig(quant_algo="W8A16").to_dict()},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    selector = plugins()
    press(selector, "compare", folder=str(tmp_path))
    assert selector.differences == [["gemm_plugin", "disable", "float16"], ["tokens_per_block", "64", "32"]]
    press(selector, "set", name="gemm_plugin", value="float16")
    assert selector.differences == []  # they were those of other choices
    weights = quantization(values={"qformat": "full_prec"})
    assert weights.compare_with(tmp_path) == [["quant_algo", "none", "W8A16"]]


def test_an_engine_of_tensorrt_llm_is_held_against_the_choices_too(tmp_path):
    """Its tables have fields that this project lacks, and null where a plugin is off."""
    table = {"gpt_attention_plugin": "auto", "gemm_plugin": "float16", "nccl_plugin": None, "paged_kv_cache": True}
    table |= {"tokens_per_block": 64, "use_paged_context_fmha": False, "moe_plugin": "auto", "multiple_profiles": False}
    weights = {"quant_algo": "FP8", "kv_cache_quant_algo": None, "clamp_val": None, "exclude_modules": ["lm_head"]}
    config = {"build_config": {"plugin_config": table}, "pretrained_config": {"quantization": weights}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert plugins().compare_with(tmp_path) == [
        ["gemm_plugin", "disable", "float16"],
        ["nccl_plugin", "auto", "disable"],
    ]
    assert ["quant_algo", "W8A16", "FP8"] in quantization_against(tmp_path)


def quantization_against(folder):
    return quantization(values={"qformat": "int8_wo"}).compare_with(folder)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"build_config": 3}'])
def test_what_is_no_config_is_said(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    selector = plugins()
    press(selector, "compare", folder=str(tmp_path))
    assert "config.json" in selector.notice


def test_backends_say_themselves_what_they_honour():
    found = plugins().backends_say()
    assert set(found) == {"tensorrt", "torch", "onnxruntime"}
    assert found["torch"]["layernorm_plugin"] == ""
    assert all(told["gpt_attention_plugin"] == "" for told in found.values())
    assert "gemm_plugin" in found["onnxruntime"]["gemm_plugin"]


def test_it_reads_well_without_a_kernel():
    data = plugins()._repr_mimebundle_()[0]
    assert "%trt_build" in data["text/html"]
    assert "gpt_attention_plugin" in data["text/plain"]
