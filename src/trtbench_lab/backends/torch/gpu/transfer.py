"""Weights from a file to the GPU at the rate of its link: threads read into pinned memory and send from there.

The same threads verify what they read: each byte is read once, and the digest is of the very bytes that were sent.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import local
from typing import Any

import torch

from ....checkpoint.safetensors_file import SafetensorsFile, torch_dtype
from ....file_digest import CHUNK_BYTES, joined_digest, reading_threads, refuse_changed
from ....storage import storage_error

# Pinning memory takes 0.3 ms/MB: two pieces of 4 MB a thread are enough to read one while the other is on its way.
PIECE_BYTES = 4 << 20
_ALIGNMENT = 512  # of every allocation of torch's


@dataclass(frozen=True)
class Target:
    """Bytes of the device's memory that a part of the file goes to."""

    start: int
    memory: torch.Tensor

    @property
    def end(self) -> int:
        """The file's offset after the last byte."""
        return self.start + self.memory.numel()


def tensors_on_gpu(
    path: Path,
    file: SafetensorsFile,
    device: torch.device,
    digest: str | None = None,
    beside: Mapping[str, str] | None = None,
) -> Mapping[str, torch.Tensor]:
    """Return every tensor of a safetensors file, on the GPU.

    Parameters
    ----------
    path, file
        The file, and its header.
    device
        Where to.
    digest
        What `file_digest.digest_by_chunk` gave when it was written; None verifies nothing.
    beside
        Names of tensors → the one that is to lie right behind each, so that both can be used as one.

    Raises
    ------
    StorageError
        When the file cannot be read.
    EngineError
        When its digest is another.
    """
    tensors: dict[str, torch.Tensor] = {}
    targets: list[Target] = []
    memories = _memories(file, device, beside or {})
    for name in file:
        place, memory = file.location(name), memories[name]
        tensors[name] = memory.view(torch_dtype(place.dtype)).view(place.shape)
        if place.nbytes:
            targets.append(Target(place.offset, memory))
    torch.cuda.synchronize(device)  # the memory is this process's before other streams write to it
    found = read_file(path, targets, lambda: _PinnedBuffers(device), hashing=digest is not None)
    torch.cuda.synchronize(device)
    if found is not None and digest is not None:
        refuse_changed(path, found, digest)
    return tensors


def _memories(file: SafetensorsFile, device: torch.device, beside: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """Allocate each tensor's bytes; of a pair the second begins where the first ends, if that keeps it aligned."""
    sizes = {name: file.location(name).nbytes for name in file}
    found: dict[str, torch.Tensor] = {}
    for first, second in beside.items():
        if first in sizes and second in sizes and sizes[first] % _ALIGNMENT == 0:
            both = torch.empty(sizes[first] + sizes[second], dtype=torch.uint8, device=device)
            found[first], found[second] = both.split([sizes[first], sizes[second]])
    for name, size in sizes.items():
        if name not in found:
            found[name] = torch.empty(size, dtype=torch.uint8, device=device)
    return found


def read_file(path: Path, targets: list[Target], buffers: Callable[[], Any], *, hashing: bool) -> str | None:
    """Read a file once, in threads, and send each part of it to its target.

    Parameters
    ----------
    path
        The file.
    targets
        In the order of their starts; they do not overlap.
    buffers
        Makes what a thread reads into and sends from: see `_PinnedBuffers`.
    hashing
        Whether to return the file's digest by chunks; otherwise None is returned.
    """
    import xxhash

    own = local()
    starts = [target.start for target in targets]

    def send(start: int) -> bytes:
        if not hasattr(own, "buffers"):
            own.buffers = buffers()
        state, end = xxhash.xxh3_128(), min(size, start + CHUNK_BYTES)
        for begin in range(start, end, PIECE_BYTES):
            piece = own.buffers.next()[: min(end - begin, PIECE_BYTES)]
            _fill(descriptor, piece, begin)
            if hashing:
                state.update(piece.numpy())
            at, stop = begin, begin + piece.numel()
            number = max(0, bisect_right(starts, begin) - 1)
            for target in targets[number:]:
                if target.start >= stop:
                    break
                at, last = max(begin, target.start), min(stop, target.end)
                if at < last:
                    own.buffers.send(
                        piece[at - begin : last - begin], target.memory[at - target.start : last - target.start]
                    )
            own.buffers.sent()
        return state.digest()

    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            chunks = range(0, size, CHUNK_BYTES)
            with ThreadPoolExecutor(max(1, min(len(chunks), reading_threads()))) as pool:
                digests = list(pool.map(send, chunks))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise storage_error(error, path, "read the engine") from error
    return joined_digest(size, digests) if hashing else None


def _fill(descriptor: int, piece: torch.Tensor, offset: int) -> None:
    filled, view = 0, memoryview(piece.numpy())
    while filled < len(view):
        count = os.preadv(descriptor, [view[filled:]], offset + filled)
        if count == 0:
            raise OSError(f"the file ended {len(view) - filled:,} bytes early")
        filled += count


class _PinnedBuffers:
    """What a thread sends with: two pinned buffers, one being read into while the other is on its way."""

    def __init__(self, device: torch.device) -> None:
        torch.cuda.set_device(device)
        self._stream = torch.cuda.Stream(device)
        self._buffers = [torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
        self._sent = [torch.cuda.Event(), torch.cuda.Event()]
        self._turn = 0

    def next(self) -> torch.Tensor:
        """Return a buffer whose last bytes have arrived."""
        self._turn = 1 - self._turn
        self._sent[self._turn].synchronize()  # at once for an event that was never recorded
        return self._buffers[self._turn]

    def send(self, piece: torch.Tensor, target: torch.Tensor) -> None:
        """Send a part of the buffer; it must stay as it is until `next` returns it again."""
        # The caller may have made the target in inference mode, which is each thread's own.
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            target.copy_(piece, non_blocking=True)

    def sent(self) -> None:
        """Note that all of the buffer is on its way."""
        self._sent[self._turn].record(self._stream)
