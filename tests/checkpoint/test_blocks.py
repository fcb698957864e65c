from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trtbench_lab.checkpoint.blocks import BlockBuffers, read_ahead, stored_blocks
from trtbench_lab.errors import CheckpointError


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 40), columns=st.integers(1, 30), block_bytes=st.sampled_from([1, 64, 300, 1 << 20]),
    form=st.sampled_from(["plain", "turned", "cut", "turned and cut", "vector", "every other"]),
    given=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
    stored=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)  # fmt: skip
def test_blocks_are_the_tensor_in_the_stored_type(
    rows: int, columns: int, block_bytes: int, form: str, given: torch.dtype, stored: torch.dtype
) -> None:
    whole = torch.randn(rows + 2, columns + 2).to(given)
    views = {
        "plain": whole, "turned": whole.t(), "cut": whole[1:, 1:-1], "turned and cut": whole[:, 1:].t()[:-1],
        "vector": whole[0], "every other": whole[::2],
    }  # fmt: skip
    view = views[form]
    buffers = BlockBuffers(2, block_bytes)
    joined = torch.cat([block.clone() for block in stored_blocks(view, stored, buffers, name="x")])
    assert torch.equal(joined, view.to(stored))


def test_several_blocks_stay_valid_at_once() -> None:
    turned = torch.arange(64.0).view(8, 8).t()
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    for block in stored_blocks(turned, torch.float32, BlockBuffers(3, 32), name="x"):
        kept.append((block, block.clone()))
        assert all(torch.equal(block, copy) for block, copy in kept[-3:])
    assert len(kept) == 8


def test_a_bad_value_is_found_in_whichever_block_it_lies() -> None:
    values = torch.zeros(64, 8)
    values[61, 3] = float("inf")
    blocks = stored_blocks(values, torch.float32, BlockBuffers(1, 256), name="the.weight")
    assert len([next(blocks) for _ in range(7)]) == 7  # 8 rows each
    with pytest.raises(CheckpointError, match=r"the\.weight"):
        next(blocks)


def test_reading_ahead_keeps_order_and_distance() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    with read_ahead(numbers(), 3) as items:
        first = next(items)
        deadline = time.monotonic() + 5
        while len(made) < 5 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.05)
        assert len(made) <= 5  # one taken, three waiting, one in hand
        assert [first, *items] == list(range(20))


def test_a_fault_of_the_reader_is_raised_to_the_taker() -> None:
    def faulty() -> Iterator[int]:
        yield 1
        raise KeyError("lost")

    with read_ahead(faulty(), 2) as items:
        assert next(items) == 1
        with pytest.raises(KeyError, match="lost"):
            next(items)


def test_the_thread_ends_when_the_taker_gives_up() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 0

    with read_ahead(endless(), 2) as items:
        next(items)
    assert not [thread for thread in threading.enumerate() if thread.name == "read-ahead"]
