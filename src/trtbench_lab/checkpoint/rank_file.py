"""One rank's safetensors file: its layout fixed before the first byte, its tensors streamed into place."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from .blocks import BlockBuffers, raw_bytes, stored_blocks
from .layout import ITEM_BYTES, nbytes
from .rank_digest import combined_digest
from .safetensors_file import dtype_name

# Tensor bytes begin at a multiple of this, so that vector loads of mapped files are aligned.
_ALIGNMENT = 64


class RankFile:
    """A file that is written tensor by tensor, in any order, block by block.

    Each tensor is hashed as it passes, so that several threads may write different ones at the same time.

    Parameters
    ----------
    path
        The new file.
    tensors
        Name → (shape, dtype), as `expected_tensors` states them.
    metadata
        Strings for the header's ``__metadata__``.
    """

    def __init__(
        self, path: Path, tensors: Mapping[str, tuple[tuple[int, ...], str]], metadata: Mapping[str, str] | None = None
    ):
        self.path = path
        self.tensors = dict(_aligned(tensors))
        self.names = tuple(self.tensors)
        self._header, self._offsets, self.nbytes = _header(self.tensors, {"format": "pt", **(metadata or {})})
        self._digests: dict[str, bytes] = {}
        self._begun: set[str] = set()
        self._lock = threading.Lock()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            _reserve(self._descriptor, self.nbytes)
        except OSError:
            self.abandon()
            raise
        self._put(memoryview(self._header), 0)

    def __enter__(self) -> RankFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Write one whole tensor, converting it to its stored type.

        Raises
        ------
        CheckpointError
            Unknown name, second write, wrong shape, values that are not finite or overflow the stored type.
        OSError
            The disk fails.
        """
        shape, dtype = self._entry(name)
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"Tensor {name} has shape {tuple(tensor.shape)} and must have {shape}.",
                where=str(self.path),
                remedy="The tensor does not belong to this configuration.",
            )
        rows = tensor.reshape(1) if tensor.ndim == 0 else tensor
        blocks = stored_blocks(rows, getattr(torch, dtype), BlockBuffers(), name=name, where=str(self.path))
        self.write_blocks(name, blocks)

    def write_blocks(self, name: str, blocks: Iterable[torch.Tensor]) -> None:
        """Write one tensor from contiguous blocks of its stored type, top to bottom; raises as `write` does."""
        import xxhash

        shape, dtype = self._entry(name)
        with self._lock:
            if name in self._begun:
                raise CheckpointError(f"Tensor {name} is written twice.", where=str(self.path))
            self._begun.add(name)
        digest = xxhash.xxh3_128()
        offset = start = self._offsets[name]
        for block in blocks:
            data = raw_bytes(block)
            digest.update(data)
            offset += self._put(data, offset)
        if offset - start != nbytes(shape, dtype):
            raise CheckpointError(
                f"Tensor {name} came with {offset - start:,} bytes and takes {nbytes(shape, dtype):,}.",
                where=str(self.path),
                remedy="The tensor does not belong to this configuration.",
            )
        self._digests[name] = digest.digest()

    def finish(self) -> dict[str, Any]:
        """Close the file; return its ``{"bytes", "digest"}`` for the manifest.

        Raises
        ------
        CheckpointError
            When tensors were not written.
        """
        missing = [name for name in self.names if name not in self._digests]
        if missing:
            raise CheckpointError(
                f"{len(missing)} tensors were not written, the first is {missing[0]}.", where=str(self.path)
            )
        self.abandon()
        digest = combined_digest(self._header, (self._digests[name] for name in self.names))
        return {"bytes": self.nbytes, "digest": digest}

    def abandon(self) -> None:
        """Close the file as it is."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _entry(self, name: str) -> tuple[tuple[int, ...], str]:
        try:
            return self.tensors[name]
        except KeyError:
            raise CheckpointError(
                f"Tensor {name} does not belong to this checkpoint.",
                where=str(self.path),
                remedy="Write the tensors that expected_tensors names.",
            ) from None

    def _put(self, data: memoryview, offset: int) -> int:
        done = 0
        while done < len(data):
            done += os.pwrite(self._descriptor, data[done:], offset + done)
        return done


def _reserve(descriptor: int, size: int) -> None:
    """Reserve a file's blocks: a full disk is found at once, and ext4 then takes 0.15 s/GB instead of 0.22.

    By the system call itself, because `os.posix_fallocate` writes a byte into every block where the file system cannot
    reserve; there, and where there is no such call, nothing is done.

    Raises
    ------
    OSError
        When the disk, the quota or the limit on file sizes is too small.
    """
    if sys.platform != "linux" or size == 0:
        return
    fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if fallocate is None:
        return
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if fallocate(descriptor, 0, 0, size) != 0:
        number = ctypes.get_errno()
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(number, os.strerror(number))


def _aligned(tensors: Mapping[str, tuple[tuple[int, ...], str]]) -> list[tuple[str, tuple[tuple[int, ...], str]]]:
    """Return the tensors in the order of the network, or widest elements first where some would be misaligned."""
    offset, items = 0, list(tensors.items())
    for _, (shape, dtype) in items:
        if offset % ITEM_BYTES[dtype]:
            return sorted(items, key=lambda item: -ITEM_BYTES[item[1][1]])
        offset += nbytes(shape, dtype)
    return items


def _header(
    tensors: Mapping[str, tuple[tuple[int, ...], str]], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, int], int]:
    """Return the header's bytes, each tensor's offset in the file, and the file's size."""
    table: dict[str, Any] = {"__metadata__": dict(metadata)}
    starts: dict[str, int] = {}
    offset = 0
    for name, (shape, dtype) in tensors.items():
        end = offset + nbytes(shape, dtype)
        spelling = dtype_name(getattr(torch, dtype))
        table[name] = {"dtype": spelling, "shape": list(shape), "data_offsets": [offset, end]}
        starts[name] = offset
        offset = end
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)  # the format allows spaces after the JSON
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + start for name, start in starts.items()}, len(header) + offset
