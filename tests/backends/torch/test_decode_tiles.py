"""The fused decode attention however its keys are divided, in Triton's interpreter; and what its kernels refuse."""

from __future__ import annotations

import pytest
import torch

from trtbench_lab.backends.torch.gpu import attention, ops
from trtbench_lab.backends.torch.gpu.attention import DecodeTiles, Heads
from trtbench_lab.backends.torch.gpu.inputs import Inputs, prepare
from trtbench_lab.errors import SpecError
from trtbench_lab.plugins.matmul import Norm

CPU = torch.device("cpu")
HEADS = Heads(4, 2, 16, 8, False, None, 0.25)


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


def _decode_operands() -> dict[str, torch.Tensor]:
    return {
        "qkv": torch.zeros(3, HEADS.qkv_width),
        "cache": torch.zeros(30, 2, 2, 16, 16),
        "cos": torch.ones(160, 8),
        "sin": torch.zeros(160, 8),
        "positions": torch.zeros(3, dtype=torch.int32),
        "tables": torch.arange(30, dtype=torch.int32).view(3, 10),
    }


def _turned(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers, in another order in memory."""
    if tensor.dim() == 1:
        return torch.stack((tensor, tensor), 1)[:, 0]
    return tensor.transpose(0, -1).contiguous().transpose(0, -1)


@pytest.mark.parametrize("name", ["qkv", "cache", "cos", "sin", "positions", "tables"])
@pytest.mark.parametrize("operation", ["decode", "rotate_and_write"])
def test_operands_that_lie_otherwise_are_refused(operation: str, name: str) -> None:
    """The kernels would read other rows' numbers, and write into other rows' keys."""
    given = _decode_operands()
    given[name] = _turned(given[name])
    scratch, rows = attention.decode_scratch(3, HEADS, DecodeTiles(2, 16), CPU), torch.zeros(3, dtype=torch.int32)
    run = {
        "decode": lambda: attention.decode(**given, heads=HEADS, scratch=scratch),
        "rotate_and_write": lambda: attention.rotate_and_write(**given, token_rows=rows, heads=HEADS),
    }
    with ops.interpreted(), pytest.raises(SpecError, match=f"{name} .*has strides"):
        run[operation]()


def test_operands_of_other_extents_are_refused() -> None:
    given, scratch = _decode_operands(), attention.decode_scratch(3, HEADS, DecodeTiles(2, 16), CPU)
    with ops.interpreted():
        for name in ("qkv", "cache", "positions", "tables"):
            cut = given[name][..., :-1].contiguous() if name in ("qkv", "cache") else given[name][:2]
            with pytest.raises(SpecError, match=r"columns and pages|scratch memory of 3 and tables of 2"):
                attention.decode(**{**given, name: cut}, heads=HEADS, scratch=scratch)
        with pytest.raises(SpecError, match="scratch memory of 2"):
            attention.decode(
                **given, heads=HEADS, scratch=attention.decode_scratch(2, HEADS, DecodeTiles(2, 16), CPU)
            )


def test_tables_may_be_the_front_of_wider_ones() -> None:
    given = _decode_operands()
    given["qkv"] = torch.randn(given["qkv"].shape, generator=torch.Generator().manual_seed(1))
    given["positions"] = torch.tensor([40, 0, 17], dtype=torch.int32)
    scratch = attention.decode_scratch(3, HEADS, DecodeTiles(2, 16), CPU)
    with ops.interpreted():
        expected = attention.decode(**given, heads=HEADS, scratch=scratch)
        wide = torch.cat((given["tables"], torch.full((3, 3), 99, dtype=torch.int32)), 1)
        found = attention.decode(**{**given, "tables": wide[:, :10]}, heads=HEADS, scratch=scratch)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["x", "added", "gated", "activate", "prepare"])
def test_row_kernels_refuse_rows_that_lie_otherwise(name: str) -> None:
    norm, turned = Norm("rms", torch.ones(16), None, 1e-5), torch.zeros(16, 4).t()
    run = {
        "x": lambda: ops.add_norm(turned, torch.zeros(4, 16), norm),
        "added": lambda: ops.add_norm(torch.zeros(4, 16), turned, norm),
        "prepare": lambda: prepare(turned, Inputs("int8"), norm, ops.kernels("inputs"), ops.launch_options(CPU)),
        "activate": lambda: ops.activate(turned, "silu", gated=False),
        "gated": lambda: ops.activate(turned, "silu", gated=True),
    }
    with ops.interpreted(), pytest.raises(SpecError, match="has strides"):
        run[name]()
