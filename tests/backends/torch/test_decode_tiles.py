"""The fused decode attention however its keys are divided, in Triton's interpreter, against the definition."""

from __future__ import annotations

import pytest
import torch

from trtbench_lab.backends.torch.gpu import attention, ops
from trtbench_lab.backends.torch.gpu.attention import DecodeTiles, Heads

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("tiles", "window"), [(DecodeTiles(1, 16, ahead=True), None), (DecodeTiles(2, 16, ahead=True), 37)]
)
def test_a_step_attends_to_every_key_once(tiles: DecodeTiles, window: int | None) -> None:
    """Rows of one key, of a whole block, and of several tiles a part; float32, sums in another order."""
    heads = Heads(4, 2, 16, 8, False, window, 0.25)
    generator = torch.Generator().manual_seed(5)
    cache = torch.randn(30, 2, 2, 16, 16, generator=generator)
    tables = torch.arange(30, dtype=torch.int32).view(3, 10)
    qkv = torch.randn(3, heads.qkv_width, generator=generator)
    cos, sin = torch.rand(2, 160, 8, generator=generator)
    positions = torch.tensor([69, 15, 0], dtype=torch.int32)
    scratch = attention.decode_scratch(3, heads, tiles, CPU)
    theirs, ours = cache.clone(), cache.clone()
    expected = attention.decode(qkv, theirs, cos, sin, positions, tables, heads, scratch)
    with ops.interpreted():
        found = attention.decode(qkv, ours, cos, sin, positions, tables, heads, scratch)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)  # the new keys and values, where they belong
