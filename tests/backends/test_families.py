"""Logits of every family on every backend against Hugging Face in float32.

Tolerance: 1e-4 of the logits' range. Both sides round every product to float32 (6e-8 relative) in another order; over
three layers that was seen to come to about 1e-6 of the range, and any wrong term is larger than 1e-2.
"""

from __future__ import annotations

import pytest
import torch
from tests.backends.models import FAMILIES, VOCAB_SIZE, Driver


def assert_close(got: torch.Tensor, expected: torch.Tensor) -> None:
    spread = float(expected.max() - expected.min())
    assert spread > 1.0, "the model's logits are all alike: this comparison would prove nothing"
    assert torch.isfinite(got).all()
    assert float((got - expected).abs().max()) <= 1e-4 * spread


def tokens_for(batch: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, VOCAB_SIZE, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def test_prefill_then_32_decode_steps(bench, executor_of, family):
    model = bench.model(family)
    tokens = tokens_for(2, 9 + 32)
    expected = model.logits(tokens)
    driver = Driver(executor_of(family), batch=2, capacity=48)
    assert_close(driver.step(tokens[:, :9]), expected[:, :9])
    for position in range(9, 9 + 32):
        assert_close(driver.step(tokens[:, position : position + 1]), expected[:, position : position + 1])


def test_ragged_batch(bench, executor_of, family):
    model = bench.model(family)
    lengths = [3, 11, 7]
    rows = [tokens_for(1, length + 4, seed=length) for length in lengths]
    driver = Driver(executor_of(family), batch=3, capacity=20)
    prompt = torch.full((3, max(lengths)), 5)  # the padding is a token like any other: nothing may hang on it
    for row, (length, tokens) in enumerate(zip(lengths, rows, strict=True)):
        prompt[row, :length] = tokens[0, :length]
    last = torch.tensor(lengths)[:, None] - 1
    expected = [model.logits(tokens) for tokens in rows]
    got = driver.step(prompt, wanted=last)
    for row, length in enumerate(lengths):
        assert_close(got[row, 0], expected[row][0, length - 1])
    driver.lengths = torch.tensor(lengths)
    for step in range(4):
        new = torch.stack([tokens[0, length + step] for length, tokens in zip(lengths, rows, strict=True)])
        got = driver.step(new[:, None])
        for row, length in enumerate(lengths):
            assert_close(got[row, 0], expected[row][0, length + step])


def test_chunked_prompt(bench, executor_of, family):
    model = bench.model(family)
    tokens = tokens_for(2, 19, seed=3)
    expected = model.logits(tokens)
    driver = Driver(executor_of(family), batch=2, capacity=19)
    start = 0
    for size in (6, 1, 9, 3):
        assert_close(driver.step(tokens[:, start : start + size]), expected[:, start : start + size])
        start += size


def test_the_longest_sequence_the_model_takes(bench, executor_of):
    """Positions up to the last row of the tables, for learned and rotary positions."""
    for family in ("gpt2", "llama3"):
        tokens = tokens_for(1, 64, seed=4)
        driver = Driver(executor_of(family), batch=1, capacity=64)
        assert_close(driver.step(tokens), bench.model(family).logits(tokens))
