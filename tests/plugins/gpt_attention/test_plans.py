"""How many programs share a row's keys, which heads share a program, and what shapes are refused."""

from __future__ import annotations

import pytest
import torch

from trtbench_lab.errors import SpecError
from trtbench_lab.plugins.gpt_attention import AttentionShape, launch
from trtbench_lab.plugins.gpt_attention.plans import choose_splits, decode_pack, flash_plan, prompt_pack

LLAMA = AttentionShape(32, 8, 128, 64, 128)


@pytest.mark.parametrize(
    ("rows", "length", "cache", "expected"),
    [
        (64, 4096, "bfloat16", 1),  # 512 programs fill 132 multiprocessors
        (16, 1024, "bfloat16", 2),
        (16, 1024, "int8", 4),
        (1, 4096, "bfloat16", 33),
        (1, 1024, "bfloat16", 16),  # 64 keys at least
        (1, 40, "bfloat16", 1),
        (1, 1 << 20, "int8", 64),
    ],
)
def test_rows_are_split_until_the_gpu_is_full(rows, length, cache, expected):
    assert choose_splits(LLAMA, rows, length, 132, cache_dtype=cache) == expected


def test_multi_block_mode_can_be_forced():
    assert choose_splits(LLAMA, 1, 4096, 132, mode="disable") == 1
    assert choose_splits(LLAMA, 64, 4096, 132, mode="enable") == 2


@pytest.mark.parametrize(("heads", "kv_heads", "decode", "prompt"), [(32, 8, 4, 4), (16, 16, 1, 1), (28, 4, 7, 7),
                                                                   (48, 1, 48, 16), (71, 1, 1, 1)])  # fmt: skip
def test_heads_of_one_key_share_a_program(heads, kv_heads, decode, prompt):
    shape = AttentionShape(heads, kv_heads, 64, 64)
    assert (decode_pack(shape), prompt_pack(shape)) == (decode, prompt)


def test_steps_of_one_token_a_row_take_small_tiles():
    assert flash_plan(LLAMA, "bfloat16", 64, 64, 16).constants["BLOCK_M"] == 16
    assert flash_plan(LLAMA, "bfloat16", 8192, 16, 8).constants["BLOCK_M"] == 128


def test_shapes_that_cannot_be_are_refused():
    with pytest.raises(SpecError, match="5 query heads cannot share 2"):
        AttentionShape(5, 2, 16, 16)
    with pytest.raises(SpecError, match="20 of 16 elements"):
        AttentionShape(2, 2, 16, 16, 20)


def test_tensors_that_are_no_whole_are_refused():
    shape = AttentionShape(2, 2, 16, 16)
    indices = torch.zeros(2, dtype=torch.int32)
    cache = torch.zeros(shape.pool_shape(4)).transpose(0, 1).contiguous().transpose(0, 1)
    query = torch.zeros(1, 32)
    with pytest.raises(SpecError, match="whole tensors"):
        launch.prompt_attention(query, cache, indices, indices[:1], indices[:1, None], torch.ones(1), query, shape)
    # The front of wider rows is for the kernels that are told how wide they are.
    wide, positions = torch.zeros(2, 128), torch.zeros(2, dtype=torch.int32)
    whole, one = torch.zeros(shape.pool_shape(4)), torch.ones(1)
    with pytest.raises(SpecError, match="whole tensors"):
        launch.write_cache(
            wide[:, :96], one, one, positions, positions, positions[:, None], one, whole, torch.zeros(2, 32), shape
        )
    parts = torch.zeros(1, 2, 2, 32)[..., :16]
    with pytest.raises(SpecError, match="whole tensors"):
        launch.combine_parts(parts, torch.zeros(1, 2, 2), positions[:1], torch.zeros(1, 32))
