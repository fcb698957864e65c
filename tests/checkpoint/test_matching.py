from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trtbench_lab.checkpoint import config_from_source, convert
from trtbench_lab.checkpoint.source import MemorySource
from trtbench_lab.errors import IntakeError
from trtbench_lab.specs import ModelConfig

from .sources import gpt2_source, gpt2_tensors, gpt2_values, llama_tensors, llama_values


def refusal(values: dict[str, object], tensors: dict[str, torch.Tensor], folder: Path, **options: object) -> str:
    """Convert what cannot be converted; return the message after checking that nothing was left."""
    source = MemorySource(values, tensors, "models/broken")
    with pytest.raises(IntakeError) as caught:
        convert(source, folder / "out", config=config_from_source(source, **options))
    assert list(folder.iterdir()) == []
    assert "models/broken" in str(caught.value)
    return str(caught.value)


def test_all_missing_tensors_are_listed(tmp_path: Path) -> None:
    values = gpt2_values()
    tensors = gpt2_tensors(values)
    del tensors["h.1.mlp.c_fc.bias"], tensors["ln_f.weight"]
    told = refusal(values, tensors, tmp_path)
    assert "2 tensors of GPT-2 are missing" in told
    assert "transformer.h.1.mlp.c_fc.bias" in told
    assert "transformer.ln_f.weight" in told


def test_an_untied_head_cannot_be_made_up(tmp_path: Path) -> None:
    values = llama_values()
    tensors = llama_tensors(values)
    del tensors["lm_head.weight"]
    assert "lm_head.weight" in refusal(values, tensors, tmp_path)


def test_extra_tensors_are_listed(tmp_path: Path) -> None:
    values = llama_values()
    extra = {f"model.layers.0.self_attn.{name}_norm.weight": torch.ones(8) for name in "qk"}
    told = refusal(values, llama_tensors(values) | extra, tmp_path)
    assert "2 tensors are not part of LLaMA" in told
    assert "model.layers.0.self_attn.q_norm.weight" in told


def test_a_layer_more_than_the_config_says_is_refused(tmp_path: Path) -> None:
    values = gpt2_values(layers=3)
    assert "12 tensors are not part of GPT-2" in refusal({**values, "n_layer": 2}, gpt2_tensors(values), tmp_path)


def test_a_bias_that_the_config_denies_is_refused(tmp_path: Path) -> None:
    values = llama_values(attention_bias=True)
    told = refusal({**values, "attention_bias": False}, llama_tensors(values), tmp_path)
    assert "self_attn.q_proj.bias" in told


@pytest.mark.parametrize(
    ("name", "tensor", "word"),
    [
        ("wte.weight", torch.zeros(100, 32), "(100, 32)"),
        ("h.0.attn.c_attn.weight", torch.zeros(96, 32), "(96, 32)"),  # not transposed
        ("h.0.mlp.c_fc.bias", torch.zeros(64), "(64,)"),
        ("h.0.ln_1.weight", torch.zeros(1, 32), "(1, 32)"),
        ("h.0.attn.c_attn.weight", torch.zeros(32), "(32,)"),
        ("ln_f.bias", torch.zeros(32, dtype=torch.int8), "int8"),
        ("h.1.mlp.c_proj.weight", torch.zeros(128, 32, dtype=torch.float8_e4m3fn), "float8_e4m3fn"),
    ],
)
def test_wrong_shapes_and_kinds_are_named(name: str, tensor: torch.Tensor, word: str, tmp_path: Path) -> None:
    values = gpt2_values()
    told = refusal(values, gpt2_tensors(values) | {name: tensor}, tmp_path)
    assert name in told
    assert word in told


def test_key_and_value_of_the_wrong_width_are_named(tmp_path: Path) -> None:
    values = llama_values(kv_heads=2)
    name = "model.layers.1.self_attn.k_proj.weight"
    told = refusal(values, llama_tensors(values) | {name: torch.zeros(32, 32)}, tmp_path)
    assert name in told
    assert "(16, 32)" in told


def test_sharing_two_tables_that_differ_is_refused(tmp_path: Path) -> None:
    values = gpt2_values()
    tensors = gpt2_tensors(values)
    told = refusal(
        values, tensors | {"lm_head.weight": tensors["wte.weight"] + 1}, tmp_path, share_embedding_table=True
    )
    assert "differs" in told
    same = MemorySource(values, tensors | {"lm_head.weight": tensors["wte.weight"].clone()})
    assert convert(same, tmp_path / "out", config=config_from_source(same, share_embedding_table=True)).tensors == 28


def test_dtype_of_a_silent_config_is_that_of_the_weights() -> None:
    values = {key: value for key, value in gpt2_values().items() if key != "dtype"}
    source = MemorySource(values, gpt2_tensors(values, dtype=torch.bfloat16))
    assert config_from_source(source).dtype == "bfloat16"
    assert config_from_source(gpt2_source()).dtype == "float32"
    assert isinstance(config_from_source(source, "float16"), ModelConfig)
