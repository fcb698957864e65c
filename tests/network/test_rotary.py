"""Rotary tables and rotation against Hugging Face's own."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb as rotate_gptj
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as rotate_llama

from trtbench_lab.errors import SpecError
from trtbench_lab.network import ops
from trtbench_lab.network.rotary import inverse_frequencies, rotary_tables

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def hugging_face_tables(base, scaling, num_positions, head_size=64):
    config = transformers.LlamaConfig(
        hidden_size=2 * head_size,
        num_attention_heads=2,
        max_position_embeddings=131072,
        rope_parameters={"rope_theta": base, **(scaling or {"rope_type": "default"})},
    )
    embedding = LlamaRotaryEmbedding(config)
    cos, sin = embedding(torch.zeros(1), torch.arange(num_positions)[None])
    return cos[0], sin[0]  # (P, head_size): both halves hold the same angles


@pytest.mark.parametrize(
    ("base", "scaling"),
    [
        (10000.0, None),
        (500000.0, LLAMA3),
        (10000.0, {"rope_type": "linear", "factor": 4.0}),
        (1e6, {"type": "linear", "factor": 2.5}),
    ],
)
def test_tables_are_hugging_faces_to_the_bit(base, scaling):
    hf_scaling = None if scaling is None else {"rope_type": scaling.get("rope_type", scaling.get("type")), **scaling}
    cos, sin = hugging_face_tables(base, hf_scaling, 9000)
    got_cos, got_sin = rotary_tables(64, base, scaling, 9000)
    # LLaMA 3's blend is written differently there: one rounding of a frequency (6e-8) times position 9000.
    tolerance = 2e-3 if scaling is LLAMA3 else 0.0
    torch.testing.assert_close(got_cos, cos[:, :32], rtol=0, atol=tolerance)
    torch.testing.assert_close(got_sin, sin[:, :32], rtol=0, atol=tolerance)


def test_llama3_keeps_fast_pairs_and_stretches_slow_ones():
    plain = inverse_frequencies(128, 500000.0, None)
    scaled = inverse_frequencies(128, 500000.0, LLAMA3)
    assert torch.equal(plain[:20], scaled[:20])
    torch.testing.assert_close(scaled[-5:], plain[-5:] / 8, rtol=1e-6, atol=0)


def test_rotation_by_halves_is_llamas():
    heads = torch.randn(2, 3, 5, 16, generator=torch.Generator().manual_seed(0))
    cos, sin = rotary_tables(16, 10000.0, None, 8)
    positions = torch.tensor([[0, 1, 2, 3, 4], [3, 4, 5, 6, 7]])
    got = ops.rotary_embedding(heads, cos[positions], sin[positions], False)
    both = torch.cat((cos, cos), -1)[positions], torch.cat((sin, sin), -1)[positions]
    expected, _ = rotate_llama(heads, heads, *both)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_interleaved_rotation_of_a_part_is_gptjs():
    heads = torch.randn(1, 2, 4, 12, generator=torch.Generator().manual_seed(0))
    cos, sin = rotary_tables(8, 10000.0, None, 4)  # 8 of 12 elements of each head are turned
    got = ops.rotary_embedding(heads, cos[None], sin[None], True)
    expected = rotate_gptj(heads[..., :8].transpose(1, 2), sin[None], cos[None]).transpose(1, 2)
    torch.testing.assert_close(got[..., :8], expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(got[..., 8:], heads[..., 8:])


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope_type": "yarn", "factor": 2.0}, "type 'yarn' is not supported"),
        ({"type": "dynamic", "factor": 2.0}, "type 'dynamic'"),
        ({"type": "linear"}, "positive number for 'factor', not None"),
        ({"type": "linear", "factor": -1}, "not -1"),
        ({"type": "linear", "factor": "two"}, "not 'two'"),
        ({**LLAMA3, "low_freq_factor": None}, "'low_freq_factor'"),
    ],
)
def test_scaling_that_cannot_be_followed_is_named(scaling, message):
    with pytest.raises(SpecError, match=message):
        inverse_frequencies(64, 10000.0, scaling)
