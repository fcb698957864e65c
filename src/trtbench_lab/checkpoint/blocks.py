"""Tensors as a stream of small blocks: cut, turned, cast and checked while they are in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np
import torch

from ..errors import CheckpointError, TrtbenchError
from .finite import all_finite, check_finite

# Large enough that reading along the rows of a transposed matrix is fast (0.29 s/GB against 0.65 at a quarter of a
# megabyte), small enough to stay in the cache until it is checked, hashed and written.
BLOCK_BYTES = 3 << 19
# Rows of a transposed matrix are read in runs of at least this share of a block (2 KB), however many rows there are.
_RUNS_A_BLOCK = 768
# torch hands element-wise work of this many elements and more to its own threads. Here ranks are the threads, and a
# second pool on the same cores made a conversion five times slower; so work is handed over in smaller pieces.
_SERIAL_ELEMENTS = 32767

_NUMPY_TYPES = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class BlockBuffers:
    """Room that blocks are made in, used again for each block; one thread's own.

    Parameters
    ----------
    block_bytes
        Size of a block aimed at.
    """

    def __init__(self, block_bytes: int = BLOCK_BYTES):
        self.block_bytes = block_bytes
        self._block = torch.empty(0, dtype=torch.uint8)
        self._slab = torch.empty(0, dtype=torch.uint8)

    def block(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return room for one block; it holds until the next one is asked for."""
        self._block = _grown(self._block, shape, dtype)
        return _room(self._block, shape, dtype)

    def slab(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return scratch room beside the block."""
        self._slab = _grown(self._slab, shape, dtype)
        return _room(self._slab, shape, dtype)


def stored_blocks(
    rows: torch.Tensor,
    dtype: torch.dtype,
    buffers: BlockBuffers,
    *,
    name: str,
    where: str | None = None,
    error: type[TrtbenchError] = CheckpointError,
    check: bool = True,
) -> Iterator[torch.Tensor]:
    """Yield a tensor's rows as contiguous blocks of the stored type, checked to be finite.

    A block is good until the next one is asked for.

    Parameters
    ----------
    rows
        The tensor, 1-D or 2-D with any strides; a memory-mapped one is read block by block.
    dtype
        Stored type.
    buffers
        Where blocks are made; those that need no change are views of `rows`.
    name, where, error
        What to say of values that are not finite; see `check_finite`.
    check
        False where the same values have passed before.
    """
    if rows.numel() == 0:
        return
    widest = max(dtype.itemsize, rows.dtype.itemsize)
    count = max(1, buffers.block_bytes // (rows[0].numel() * widest))
    unchanged = rows.dtype == dtype and rows.is_contiguous()
    across = rows.ndim == 2 and rows.stride(0) == 1 and rows.stride(1) != 1
    if across:
        count = max(count, buffers.block_bytes // _RUNS_A_BLOCK // widest)
    for start in range(0, rows.shape[0], count):
        block = given = rows[start : start + count]
        if not unchanged:
            block = buffers.block(tuple(given.shape), dtype)
            if across:
                # Rows of a transposed matrix: copied along the source's rows first and turned in the cache, at two to
                # three times the speed of a strided copy.
                slab = buffers.slab((given.shape[1], given.shape[0]), dtype)
                _copy(slab, given.t())
                block.copy_(slab.t())
            else:
                _copy(block, given)
        if check and not all_finite(block):  # a value that the stored type cannot hold has become infinite
            check_finite(name, given, where=where, error=error, stored_as=dtype)
        yield block


def check_in_order(tensor: torch.Tensor, *, name: str, where: str | None, error: type[TrtbenchError]) -> None:
    """Check a contiguous tensor from its first byte to its last.

    A mapped tensor that is turned afterwards has its pages in memory then, mapped in the order in which that is
    cheapest: both together take 0.49 s/GB where turning a tensor that was never touched takes 0.52 and checks nothing.
    """
    flat = tensor.reshape(-1)
    step = max(1, BLOCK_BYTES // tensor.dtype.itemsize)
    if not all(all_finite(flat[start : start + step]) for start in range(0, flat.numel(), step)):
        check_finite(name, tensor, where=where, error=error)


def touch(tensor: torch.Tensor) -> None:
    """Map a contiguous tensor's pages in order, by reading a byte of every 64 KB (what Linux maps at one fault)."""
    raw = tensor.reshape(-1).view(torch.uint8).numpy()
    if raw.size:
        raw[:: 1 << 16].max()


def raw_bytes(block: torch.Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor without copying."""
    return memoryview(block.detach().reshape(-1).view(torch.uint8).numpy())


def _copy(target: torch.Tensor, given: torch.Tensor) -> None:
    """Copy and cast on this thread alone."""
    if target.dtype == given.dtype:
        kind = _NUMPY_TYPES[target.dtype.itemsize]
        unsigned = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32, 8: torch.uint64}[target.dtype.itemsize]
        np.copyto(target.view(unsigned).numpy(), given.detach().view(unsigned).numpy().view(kind))
        return
    count = max(1, _SERIAL_ELEMENTS // max(1, given[0].numel()))
    for start in range(0, given.shape[0], count):
        target[start : start + count].copy_(given[start : start + count])


def _grown(buffer: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    needed = prod(shape) * dtype.itemsize
    return buffer if buffer.numel() >= needed else torch.empty(needed, dtype=torch.uint8)


def _room(buffer: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    needed = prod(shape) * dtype.itemsize
    return buffer[:needed].view(dtype).view(shape)
