"""Tensors as a stream of small blocks: cut, turned, cast and checked while they are in the cache."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch

from ..errors import CheckpointError, TrtbenchError
from .finite import all_finite, check_finite

# Large enough that reading along the rows of a transposed matrix is fast (0.29 s/GB against 0.65 at a quarter of a
# megabyte), small enough to stay in the cache until it is checked, hashed and written.
BLOCK_BYTES = 1 << 21
# torch hands element-wise work of this many elements and more to its own threads. Here ranks are the threads, and a
# second pool on the same cores made a conversion five times slower; so work is handed over in smaller pieces.
_SERIAL_ELEMENTS = 32767

Item = TypeVar("Item")
_NUMPY_TYPES = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class BlockBuffers:
    """Buffers that blocks are made in, used in turn.

    Parameters
    ----------
    count
        Blocks that stay valid at the same time.
    block_bytes
        Size of a block aimed at.
    """

    def __init__(self, count: int = 1, block_bytes: int = BLOCK_BYTES):
        self.block_bytes = block_bytes
        self._buffers = [torch.empty(0, dtype=torch.uint8) for _ in range(count)]
        self._slab = torch.empty(0, dtype=torch.uint8)
        self._turn = 0

    def next(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return room for one block; it holds until `count` more have been asked for."""
        self._turn = (self._turn + 1) % len(self._buffers)
        self._buffers[self._turn] = _grown(self._buffers[self._turn], shape, dtype)
        return _room(self._buffers[self._turn], shape, dtype)

    def slab(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return scratch room, for use before the next call."""
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
    row_elements = rows[0].numel()
    count = max(1, buffers.block_bytes // (row_elements * max(dtype.itemsize, rows.dtype.itemsize)))
    unchanged = rows.dtype == dtype and rows.is_contiguous()
    across = rows.ndim == 2 and rows.stride(0) == 1 and rows.stride(1) != 1
    for start in range(0, rows.shape[0], count):
        block = given = rows[start : start + count]
        if not unchanged:
            block = buffers.next(tuple(given.shape), dtype)
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


def raw_bytes(block: torch.Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor without copying."""
    return memoryview(block.detach().reshape(-1).view(torch.uint8).numpy())


@contextmanager
def read_ahead(items: Iterator[Item], depth: int) -> Iterator[Iterator[Item]]:
    """Run an iterator in a thread of its own, at most `depth` items ahead of whoever takes them.

    Its exceptions are raised where its items are taken. The thread ends with the body.
    """
    waiting: queue.Queue[tuple[str, Item | BaseException | None]] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(kind: str, value: Item | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                waiting.put((kind, value), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def produce() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
        except BaseException as fault:
            put("fault", fault)
        else:
            put("end", None)

    def take() -> Iterator[Item]:
        while True:
            kind, value = waiting.get()
            if kind == "end":
                return
            if isinstance(value, BaseException):
                raise value
            yield value  # type: ignore[misc]

    thread = threading.Thread(target=produce, name="read-ahead", daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        stopped.set()
        thread.join()


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
    needed = int(np.prod(shape)) * dtype.itemsize
    return buffer if buffer.numel() >= needed else torch.empty(needed, dtype=torch.uint8)


def _room(buffer: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    needed = int(np.prod(shape)) * dtype.itemsize
    return buffer[:needed].view(dtype).view(shape)
