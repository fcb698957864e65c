"""Each family's map against the modules of transformers: a linear layer must compute the same product."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trtbench_lab.checkpoint import config_from_source
from trtbench_lab.checkpoint.conversion import rank_tensor
from trtbench_lab.checkpoint.layout import whole_tensors
from trtbench_lab.checkpoint.matching import match_source
from trtbench_lab.checkpoint.source import MemorySource
from trtbench_lab.families import family_for_hf
from trtbench_lab.specs import Mapping

from . import tiny


def converted(values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    source = MemorySource(values, tensors)
    config = config_from_source(source, "float32")
    matched = match_source(source, config, family_for_hf(values))
    return {tensor.name: rank_tensor(source, tensor, matched, config, Mapping()) for tensor in whole_tensors(config)}


def product(weights: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    # one float32 product of 32 to 64 terms; only the order of summation differs
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def check_gpt_layer(weights: dict[str, torch.Tensor], block: Any, layer: int, qkv: torch.Tensor) -> None:
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(layer))
    prefix = f"transformer.layers.{layer}"
    close(product(weights, f"{prefix}.attention.dense", x), block.attn.c_proj(x[None])[0])
    hidden = product(weights, f"{prefix}.mlp.fc", x)
    close(hidden, block.mlp.c_fc(x[None])[0])
    close(product(weights, f"{prefix}.mlp.proj", hidden), block.mlp.c_proj(hidden[None])[0])
    close(product(weights, f"{prefix}.attention.qkv", x), qkv)
    for ours, theirs in (("input_layernorm", block.ln_1), ("post_layernorm", block.ln_2)):
        assert torch.equal(weights[f"{prefix}.{ours}.weight"], theirs.weight)
        assert torch.equal(weights[f"{prefix}.{ours}.bias"], theirs.bias)


def layer_input(layer: int) -> torch.Tensor:
    return torch.randn(3, 32, generator=torch.Generator().manual_seed(layer))


@pytest.mark.parametrize("name", ["gpt2", "gpt2-relu-narrow", "starcoder"])
@torch.no_grad()
def test_gpt_with_fused_rows_in_our_order(name: str) -> None:
    model = tiny.MODELS[name]()
    weights = converted(tiny.config_json(model), tiny.state(model))
    for layer, block in enumerate(model.transformer.h):
        check_gpt_layer(weights, block, layer, block.attn.c_attn(layer_input(layer)[None])[0])
    assert torch.equal(weights["lm_head.weight"], model.transformer.wte.weight)
    assert torch.equal(weights["transformer.position_embedding.weight"], model.transformer.wpe.weight)
    assert torch.equal(weights["transformer.ln_f.bias"], model.transformer.ln_f.bias)


@torch.no_grad()
def test_bigcode_with_heads_side_by_side() -> None:
    model = tiny.MODELS["bigcode-multi-head"]()
    weights = converted(tiny.config_json(model), tiny.state(model))
    for layer, block in enumerate(model.transformer.h):
        fused = block.attn.c_attn(layer_input(layer)[None])[0]
        # as the module itself takes it apart: (tokens, heads, 3 * head_size)
        query, key, value = fused.view(3, 4, 24).split(8, dim=2)
        check_gpt_layer(weights, block, layer, torch.cat([part.reshape(3, 32) for part in (query, key, value)], dim=1))


@torch.no_grad()
def test_santacoder_is_the_same_model_as_its_gpt_bigcode_form() -> None:
    values, tensors, model = tiny.santacoder()
    original = converted(values, tensors)
    port = converted(tiny.config_json(model), tiny.state(model))
    assert original.keys() == port.keys()
    assert all(torch.equal(original[name], port[name]) for name in port)


def test_santacoder_with_full_heads_has_a_fused_layer() -> None:
    model = tiny.gpt2()
    values = {**tiny.config_json(model), "architectures": ["GPT2LMHeadCustomModel"], "attention_head_type": "multihead"}
    ours, gpt2 = converted(values, tiny.state(model)), converted(tiny.config_json(model), tiny.state(model))
    assert all(torch.equal(ours[name], gpt2[name]) for name in gpt2)


LLAMA_LIKE = ["llama1", "llama2-gqa", "llama3", "llama-biases-wide-heads", "qwen2", "mistral"]


@pytest.mark.parametrize("name", [*LLAMA_LIKE, "internlm"])
@torch.no_grad()
def test_llama_and_its_relatives(name: str) -> None:
    if name == "internlm":
        model = tiny.llama(attention_bias=True)
        weights = converted(*tiny.internlm())
    else:
        model = tiny.MODELS[name]()
        weights = converted(tiny.config_json(model), tiny.state(model))
    for layer, block in enumerate(model.model.layers):
        x, prefix, attention = layer_input(layer), f"transformer.layers.{layer}", block.self_attn
        qkv = torch.cat([projection(x) for projection in (attention.q_proj, attention.k_proj, attention.v_proj)], dim=1)
        close(product(weights, f"{prefix}.attention.qkv", x), qkv)
        heads = torch.randn(3, attention.o_proj.in_features)
        close(product(weights, f"{prefix}.attention.dense", heads), attention.o_proj(heads))
        close(product(weights, f"{prefix}.mlp.fc", x), block.mlp.gate_proj(x))
        close(product(weights, f"{prefix}.mlp.gate", x), block.mlp.up_proj(x))
        inner = torch.randn(3, 48)
        close(product(weights, f"{prefix}.mlp.proj", inner), block.mlp.down_proj(inner))
        assert torch.equal(weights[f"{prefix}.input_layernorm.weight"], block.input_layernorm.weight)
        assert torch.equal(weights[f"{prefix}.post_layernorm.weight"], block.post_attention_layernorm.weight)
    assert torch.equal(weights["transformer.vocab_embedding.weight"], model.model.embed_tokens.weight)
    assert torch.equal(weights["transformer.ln_f.weight"], model.model.norm.weight)
    assert torch.equal(weights["lm_head.weight"], model.lm_head.weight)
    assert "transformer.position_embedding.weight" not in weights


@pytest.mark.parametrize("name", ["gpt2", "llama2-gqa"])
def test_names_without_the_prefix_are_the_same_tensors(name: str) -> None:
    model = tiny.MODELS[name]()
    tensors = tiny.state(model)
    bare = {key.removeprefix("transformer.").removeprefix("model."): tensor for key, tensor in tensors.items()}
    ours, again = converted(tiny.config_json(model), tensors), converted(tiny.config_json(model), bare)
    assert all(torch.equal(ours[key], again[key]) for key in ours)


def test_mask_buffers_of_old_gpt2_files_are_no_weights() -> None:
    model = tiny.gpt2()
    tensors = tiny.state(model)
    mask = torch.ones(1, 1, 64, 64, dtype=torch.bool)
    buffers = {"transformer.h.0.attn.bias": mask, "h.1.attn.masked_bias": torch.tensor(-1e4)}
    ours, again = converted(tiny.config_json(model), tensors), converted(tiny.config_json(model), tensors | buffers)
    assert all(torch.equal(ours[key], again[key]) for key in ours)


def test_rotary_buffers_of_old_llama_files_are_no_weights() -> None:
    model = tiny.llama()
    buffers = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    assert converted(tiny.config_json(model), tiny.state(model) | buffers)


def test_a_tied_head_that_is_stored_as_well_is_read_as_stored() -> None:
    model = tiny.gpt2()
    head = torch.randn(tiny.VOCAB, 32)
    weights = converted(tiny.config_json(model), tiny.state(model) | {"lm_head.weight": head})
    assert torch.equal(weights["lm_head.weight"], head)
    assert torch.equal(weights["transformer.vocab_embedding.weight"], model.transformer.wte.weight)
