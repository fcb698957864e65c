"""Calibration tokens: chosen by seed, cut without padding, told apart by digest."""

from __future__ import annotations

import hashlib

import pytest
import torch

from trtbench_lab.calibration import calibration_tokens
from trtbench_lab.errors import QuantizationError

TEXTS = [[n] * 5 for n in range(40)]


def test_rows_hold_the_texts_one_after_another():
    tokens = calibration_tokens(TEXTS, size=4, length=10, seed=3, source="numbers")
    assert tokens.token_ids.shape == (4, 10)
    flat = tokens.token_ids.flatten().tolist()
    assert [flat[start : start + 5] for start in range(0, 40, 5)] == [[flat[start]] * 5 for start in range(0, 40, 5)]
    assert len(set(flat)) == 8  # no text twice
    assert tokens.num_tokens == 40
    raw = b"".join(value.to_bytes(8, "little", signed=True) for value in flat)
    assert tokens.to_dict() == {
        "source": "numbers", "size": 4, "length": 10, "seed": 3, "digest": f"sha256:{hashlib.sha256(raw).hexdigest()}",
    }  # fmt: skip


def test_the_same_inputs_give_the_same_tokens_and_another_seed_gives_others():
    first, again, other = (calibration_tokens(TEXTS, size=4, length=10, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.token_ids, again.token_ids)
    assert first.digest == again.digest != other.digest


def test_short_text_gives_fewer_rows_and_too_short_a_text_none():
    assert calibration_tokens(TEXTS, size=1000, length=60).token_ids.shape == (3, 60)
    with pytest.raises(QuantizationError, match=r"has 200 tokens, and one row needs 201"):
        calibration_tokens(TEXTS, size=1, length=201)


def test_strings_need_a_tokenizer():
    with pytest.raises(QuantizationError, match="tokenizer"):
        calibration_tokens(["some text"], size=1, length=1)

    def letters(text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [ord(letter) for letter in text]}

    assert calibration_tokens(["abc", "abc"], letters, size=2, length=3).token_ids.tolist() == [[97, 98, 99]] * 2
