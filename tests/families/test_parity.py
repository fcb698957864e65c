"""Every registered family's logits against transformers in float32; a new family is found here by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from trtbench_lab.checkpoint import config_from_source, convert, open_checkpoint
from trtbench_lab.checkpoint.source import MemorySource
from trtbench_lab.families import Family, all_families
from trtbench_lab.network.decoder import Decoder
from trtbench_lab.network.loading import assign_tensors

from . import tiny

# Names that every configuration class of a decoder understands, by itself or through its attribute map.
SIZES = {
    "vocab_size": tiny.VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 56, "max_position_embeddings": 64, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip


def model_of(family: Family) -> tuple[dict[str, Any], dict[str, torch.Tensor], Any]:
    """Return config.json, tensors and a module of transformers that computes the same."""
    if family.name == "internlm":  # no class of its own: LLaMA's with biases is the same arithmetic
        return *tiny.internlm(), tiny.llama(attention_bias=True)
    if family.name == "santacoder":  # its code came with the model; the port in transformers is the same arithmetic
        return tiny.santacoder()
    assert family.model_types, f"say in this test which model of transformers computes what {family.name} does"
    assert family.model_types[0] in CONFIG_MAPPING
    model = tiny.filled(AutoModelForCausalLM.from_config(AutoConfig.for_model(family.model_types[0], **SIZES)))
    return tiny.config_json(model), tiny.state(model), model


def logits_of(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    checkpoint = open_checkpoint(folder)
    with torch.device("meta"):
        decoder = Decoder(checkpoint.config)
    assign_tensors(decoder, dict(checkpoint.rank(0)))
    assign_tensors(decoder, decoder.rotary_tables())
    config = checkpoint.config
    shape = (tokens.shape[0], config.kv_heads, tokens.shape[1], config.head_width)
    caches = [torch.zeros(shape) for _ in range(2 * config.num_hidden_layers)]
    everything = torch.arange(tokens.shape[1]).expand(tokens.shape)
    return decoder(tokens, torch.zeros(tokens.shape[0], dtype=torch.int64), everything, caches)[0]


@pytest.mark.parametrize("family", all_families(), ids=lambda family: family.name)
@torch.no_grad()
def test_logits_are_those_of_transformers(family: Family, tmp_path: Path) -> None:
    values, tensors, model = model_of(family)
    source = MemorySource(values, tensors)
    convert(source, tmp_path / "checkpoint", config=config_from_source(source, "float32"))
    tokens = torch.randint(0, tiny.VOCAB, (2, 20), generator=torch.Generator().manual_seed(3))
    ours, theirs = logits_of(tmp_path / "checkpoint", tokens), model(tokens, use_cache=False).logits
    spread = float(theirs.max() - theirs.min())
    # float32 in another order of summation was seen to differ by 1e-6 of the range; a wrong term by 1e-2 and more
    assert float((ours - theirs).abs().max()) <= 1e-4 * spread
    assert spread > 1.0


@pytest.mark.parametrize("name", tiny.MODELS)
@torch.no_grad()
def test_logits_of_every_variant(name: str, tmp_path: Path) -> None:
    model = tiny.MODELS[name]()
    source = MemorySource(tiny.config_json(model), tiny.state(model))
    convert(source, tmp_path / "checkpoint", config=config_from_source(source, "float32"))
    tokens = torch.randint(0, tiny.VOCAB, (2, 20), generator=torch.Generator().manual_seed(4))
    ours, theirs = logits_of(tmp_path / "checkpoint", tokens), model(tokens, use_cache=False).logits
    assert float((ours - theirs).abs().max()) <= 1e-4 * float(theirs.max() - theirs.min())
