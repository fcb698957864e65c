from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import trtbench_lab.families as package
from trtbench_lab.errors import IntakeError
from trtbench_lab.families import all_families, family_for_architecture, family_for_hf
from trtbench_lab.specs import ModelConfig


def test_every_family_of_the_documentation_is_registered() -> None:
    names = {family.name for family in all_families()}
    assert {"gpt2", "llama", "qwen2", "internlm", "mistral", "gpt_bigcode", "santacoder"} <= names


def test_no_architecture_or_model_type_belongs_to_two_families() -> None:
    for field in ("architectures", "base_architectures", "model_types"):
        listed = [name for family in all_families() for name in getattr(family, field)]
        assert len(listed) == len(set(listed))


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "llama"),
        ({"architectures": None, "model_type": "gpt2"}, "gpt2"),
        ({"architectures": ["GPT2Model"], "model_type": "gpt2"}, "gpt2"),
        ({"architectures": ["GPT2LMHeadCustomModel"], "model_type": "gpt2"}, "santacoder"),
        ({"model_type": "gpt_bigcode"}, "gpt_bigcode"),
        ({"architectures": ["InternLMForCausalLM"]}, "internlm"),
    ],
)
def test_family_is_found_by_architecture_and_else_by_model_type(values: dict[str, object], name: str) -> None:
    assert family_for_hf(values).name == name


def test_unknown_architecture_suggests_the_nearest() -> None:
    with pytest.raises(IntakeError, match="LlamaForCausalLn") as caught:
        family_for_architecture("LlamaForCausalLn")
    assert "Did you mean 'LlamaForCausalLM'" in str(caught.value)


def test_quite_another_architecture_lists_the_known_ones() -> None:
    with pytest.raises(IntakeError) as caught:
        family_for_hf({"architectures": ["T5ForConditionalGeneration"]})
    assert "Qwen2ForCausalLM" in str(caught.value)


@pytest.mark.parametrize("values", [{}, {"architectures": []}, {"architectures": "GPT2LMHeadModel"}, {"model_type": 3}])
def test_configuration_without_a_usable_name_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(IntakeError):
        family_for_hf(values)


@pytest.fixture
def one_more_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A family that lives in a file of its own, dropped into the package's search path."""
    (tmp_path / "newcomer.py").write_text(
        "from trtbench_lab.families.base import Family\n"
        "from trtbench_lab.families.llama import *\n"
        "from trtbench_lab.families.llama import FAMILY as LLAMA\n"
        "import dataclasses\n"
        "FAMILY = dataclasses.replace(LLAMA, name='newcomer', architectures=('NewcomerForCausalLM',),\n"
        "                             base_architectures=(), model_types=('newcomer',))\n"
    )
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    all_families.cache_clear()
    yield
    all_families.cache_clear()


@pytest.mark.usefixtures("one_more_file")
def test_a_new_family_is_one_file_and_nothing_else() -> None:
    values = {
        "architectures": ["NewcomerForCausalLM"], "vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4,
        "num_hidden_layers": 1, "intermediate_size": 64, "max_position_embeddings": 32,
    }  # fmt: skip
    config = family_for_hf(values).config_from_hf(values)
    assert isinstance(config, ModelConfig)
    assert config.architecture == "NewcomerForCausalLM"
    assert family_for_architecture("NewcomerForCausalLM").weight_map(config)
