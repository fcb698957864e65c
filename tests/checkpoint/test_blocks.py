from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trtbench_lab.checkpoint.blocks import BlockBuffers, check_in_order, stored_blocks, touch
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
    buffers = BlockBuffers(block_bytes)
    joined = torch.cat([block.clone() for block in stored_blocks(view, stored, buffers, name="x")])
    assert torch.equal(joined, view.to(stored))


def test_a_bad_value_is_found_in_whichever_block_it_lies() -> None:
    values = torch.zeros(64, 8)
    values[61, 3] = float("inf")
    blocks = stored_blocks(values, torch.float32, BlockBuffers(256), name="the.weight")
    assert len([next(blocks) for _ in range(7)]) == 7  # 8 rows each
    with pytest.raises(CheckpointError, match=r"the\.weight"):
        next(blocks)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_checking_in_order_finds_any_bad_value_at_any_end(dtype: torch.dtype, value: float) -> None:
    fault = {"name": "w", "where": "here", "error": CheckpointError}
    values = torch.randn(700, 900).to(dtype)  # more than one block
    check_in_order(values, **fault)
    for place in (0, values.numel() // 2, values.numel() - 1):
        damaged = values.clone()
        damaged.view(-1)[place] = value
        with pytest.raises(CheckpointError, match="here"):
            check_in_order(damaged, **fault)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 70000)])
def test_touching_takes_any_shape(shape: tuple[int, ...]) -> None:
    touch(torch.zeros(shape))
