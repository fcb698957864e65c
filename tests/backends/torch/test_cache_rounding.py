"""What the fused steps write to a quantized cache: the attention plugin's rounding, ties to the even neighbour."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trtbench_lab.backends.torch.gpu import attention, ops
from trtbench_lab.backends.torch.gpu.attention import DecodeTiles, Heads, decode_scratch, rotate_and_write
from trtbench_lab.plugins.gpt_attention.reference import store_as

SCALE = 0.25  # a power of two: what is halfway stays halfway
HEADS = Heads(2, 1, 16, 0, False, None, 0.25)
TIES = torch.tensor(
    [0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 126.5, -126.5, 127.5, -127.5, -128.5, 300, -300, 0.49, 3.51, 64.5]
)
INT8 = torch.tensor([0, 0, 2, -2, 2, -2, 126, -126, 127, -128, -128, 127, -128, 0, 4, 64], dtype=torch.int8)
# Between 16 and 32 neighbours are 2 apart, between 256 and 448 32.
FP8_TIES = torch.tensor([17, -17, 19, -19, 21, 23, 272, 304, -336, 500, -500, 0.5, 1.0625, 1.1875, 18, 416])
FP8 = torch.tensor([16, -16, 20, -20, 20, 24, 256, 320, -320, 448, -448, 0.5, 1, 1.25, 18, 416])


def qkv_of(values: torch.Tensor, device: str) -> torch.Tensor:
    """(1, 4 · 16): queries of ones, and key and value that are `values` steps of the cache."""
    return torch.cat([torch.ones(32), values * SCALE, values.flip(0) * SCALE])[None].to(device)


def written(values: torch.Tensor, dtype: torch.dtype, device: str, *, decodes: bool) -> torch.Tensor:
    """Return key and value (2, 16) as a step wrote them, the value in the order of the key."""
    cache = torch.full((2, 2, 1, 8, 16), 77, dtype=torch.uint8, device=device).view(dtype)
    positions = torch.tensor([0], dtype=torch.int32, device=device)
    tables = torch.tensor([[1]], dtype=torch.int32, device=device)
    qkv = qkv_of(values, device)
    if decodes:
        scratch = decode_scratch(1, HEADS, DecodeTiles(1, 16), torch.device(device))
        attention.decode(qkv, cache, None, None, positions, tables, HEADS, scratch, kv_scale=SCALE)
    else:
        rows = torch.zeros_like(positions)
        rotate_and_write(qkv, cache, None, None, positions, rows, tables, HEADS, kv_scale=SCALE)
    key, value = cache[1, :, 0, 0]
    return torch.stack([key.view(torch.uint8), value.view(torch.uint8).flip(0)]).view(dtype).cpu()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("decodes", [True, False], ids=["decode", "prompt"])
@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "library"])
@pytest.mark.parametrize(
    ("values", "expected"), [(TIES, INT8), (FP8_TIES, FP8.to(torch.float8_e4m3fn))], ids=["int8", "fp8"]
)
def test_ties_go_to_the_even_neighbour(
    values: torch.Tensor, expected: torch.Tensor, kernels: bool, decodes: bool, device: str
) -> None:
    if kernels and device == "cpu":
        with ops.interpreted():
            found = written(values, expected.dtype, device, decodes=decodes)
    else:
        found = written(values, expected.dtype, device, decodes=decodes)
    for row in found:
        assert torch.equal(row.float(), expected.float())
    assert torch.equal(store_as(values * SCALE, torch.tensor(SCALE), expected.dtype).float(), expected.float())


def test_random_values_are_numpys() -> None:
    generator = np.random.default_rng()
    values = torch.from_numpy(generator.integers(-280, 280, 16).astype(np.float32) / 2)
    expected = np.clip(np.rint(values.numpy()), -128, 127)
    with ops.interpreted():
        for decodes in (True, False):
            found = written(values, torch.int8, "cpu", decodes=decodes)
            assert (found.numpy() == expected).all()
