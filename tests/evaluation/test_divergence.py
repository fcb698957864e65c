"""First divergence, margins and logit differences, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from tests.evaluation.tiny_sides import word_tokenizer

from trtbench_lab.evaluation.divergence import (
    alternatives,
    divergence_at,
    first_divergence,
    logit_difference,
    margin,
)


@pytest.mark.parametrize(
    ("a", "b", "position"),
    [
        ([1, 2, 3], [1, 2, 3], None),
        ([], [], None),
        ([1, 2, 3], [1, 5, 3], 1),
        ([1, 2], [1, 2, 3], 2),
        ([1, 2, 3], [1], 1),
        ([4], [5], 0),
    ],
)
def test_first_divergence(a, b, position):
    assert first_divergence(a, b) == position


def test_margin_is_between_the_two_largest():
    assert margin(torch.tensor([1.0, 4.5, -2.0, 4.0])) == 0.5


def test_alternatives_are_ordered_and_carry_probabilities():
    found = alternatives(torch.tensor([0.0, math.log(3.0), float("-inf")]), None, count=2)
    assert [a.token for a in found] == [1, 0]
    assert [a.probability for a in found] == pytest.approx([0.75, 0.25])
    assert found[0].text is None


def test_logit_difference_by_hand():
    engine = torch.tensor([[1.0, 2.0, 0.0], [5.0, 0.0, 0.0]])
    reference = torch.tensor([[1.0, 1.5, 0.0], [0.0, 5.5, 0.0]])
    found = logit_difference(engine, reference)
    assert found.positions == 2
    assert found.max_abs == 5.5
    assert found.mean_abs == pytest.approx((0.5 + 5.0 + 5.5) / 6)
    assert found.logit_range == 5.5
    assert found.max_relative == 1.0
    assert found.top1_agreement == 50.0


def test_a_divergence_tells_both_sides():
    engine, other = torch.zeros(96), torch.zeros(96)
    engine[7], engine[9] = 3.0, 2.75
    other[9], other[7] = 3.0, 2.5
    found = divergence_at(1, [4, 7], [4, 9], engine, other, word_tokenizer())
    assert (found.engine_token, found.engine_text, found.engine_margin) == (7, "w7", 0.25)
    assert (found.hf_token, found.hf_text, found.hf_margin) == (9, "w9", 0.5)
    assert found.max_abs_logit_difference == 0.5
    assert [a.token for a in found.engine_alternatives[:2]] == [7, 9]
    assert len(found.hf_alternatives) == 5


def test_a_side_that_had_ended_has_no_token():
    found = divergence_at(1, [4, 7], [4], torch.arange(96.0), torch.arange(96.0), word_tokenizer())
    assert found.hf_token is None
    assert found.hf_text is None
    assert found.engine_text == "w7"
