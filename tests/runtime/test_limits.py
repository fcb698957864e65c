"""Requests outside an engine's limits: every one a plain sentence that names the value and the way out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trtbench_lab.errors import RequestError
from trtbench_lab.runtime.limits import EngineLimits, prompts_from_request

LIMITS = EngineLimits(vocab_size=100, max_batch_size=2, max_input_len=6, max_seq_len=10, max_beam_width=3)


@pytest.mark.parametrize(
    "batch",
    [
        [[1, 2, 3], [4]],
        [torch.tensor([1, 2, 3]), torch.tensor([4], dtype=torch.int32)],
        [np.array([1, 2, 3]), np.array([4], dtype=np.int32)],
        ((1, 2, 3), (np.int64(4),)),
        [[torch.tensor(1), 2, 3], [4]],
    ],
)
def test_prompts_of_every_kind_become_lists(batch):
    assert prompts_from_request(batch, 100) == [[1, 2, 3], [4]]


def test_a_rectangular_tensor_is_a_batch():
    assert prompts_from_request(torch.tensor([[1, 2], [3, 4]]), 100) == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ([], "no prompt"),
        ([[]], "empty"),
        ([torch.tensor([], dtype=torch.int64)], "empty"),
        (["text"], "token ids"),
        ("text", "token ids"),
        ([1, 2, 3], "flat list"),
        (torch.tensor([1, 2, 3]), "1 dimension"),
        (None, "NoneType"),
        (5, "int"),
        ([[1, 2.0]], "2.0"),
        ([[1, True]], "True"),
        ([[1, None]], "None"),
        ([torch.tensor([1.0])], "float32"),
        ([torch.tensor([True])], "bool"),
        ([np.array([1.5])], "float64"),
        ([torch.tensor([[1]])], "2 dimensions"),
        ([{1, 2}], "set"),
        ([[1, 100]], "100"),
        ([[1], [-1]], "-1"),
    ],
)
def test_bad_prompts_are_refused(batch, words):
    with pytest.raises(RequestError) as caught:
        prompts_from_request(batch, 100)
    assert words in str(caught.value)
    assert caught.value.remedy


def test_the_place_of_a_bad_id_is_named():
    with pytest.raises(RequestError, match=r"batch_input_ids\[1\].*position 2"):
        prompts_from_request([[1], [1, 2, 300]], 100)


def test_a_prompt_longer_than_max_input_len_is_an_error_or_cut():
    long = list(range(8))
    with pytest.raises(RequestError, match="8 tokens and the engine takes at most 6"):
        LIMITS.fitted([long], "error", 1)
    assert LIMITS.fitted([long, [1]], "left", 1) == [long[2:], [1]]
    assert LIMITS.fitted([long, [1]], "right", 1) == [long[:6], [1]]


def test_cutting_leaves_room_for_the_new_tokens():
    assert LIMITS.fitted([list(range(6))], "left", 7) == [[3, 4, 5]]
    with pytest.raises(RequestError, match="beside 10 new ones"):
        LIMITS.fitted([[1]], "left", 10)


def test_an_unknown_truncation_is_refused():
    with pytest.raises(RequestError, match="middle"):
        LIMITS.fitted([[1]], "middle", 1)


@pytest.mark.parametrize(
    ("lengths", "new_tokens", "beams", "words"),
    [
        ([1, 1, 1], 1, 1, "max_batch_size=3"),
        ([1], 1, 4, "max_beam_width=4"),
        ([2, 5], 6, 1, "at most 5 new tokens"),
        ([2, 5], 6, 1, "max_seq_len is 10"),
    ],
)
def test_sizes_beyond_the_engine_are_refused(lengths, new_tokens, beams, words):
    with pytest.raises(RequestError) as caught:
        LIMITS.check_size(lengths, new_tokens, beams)
    assert words in str(caught.value)


def test_the_largest_request_passes():
    LIMITS.check_size([6, 6], 4, 3)


def test_no_limits_mean_none():
    free = EngineLimits(vocab_size=10)
    free.check_size([10_000] * 50, 1000, 99)
    assert free.fitted([[1] * 10_000], "error", 5) == [[1] * 10_000]
