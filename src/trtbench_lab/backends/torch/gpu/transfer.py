"""Weights from a file to the GPU at the rate of its link: threads read into pinned memory and send from there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import local

import torch

from ....checkpoint.safetensors_file import SafetensorsFile, torch_dtype
from ....storage import storage_error

# Copying from the page cache runs at 5-10 GB/s a thread; eight of them outrun a PCIe 5 link.
THREADS = 8
CHUNK_BYTES = 16 << 20


def tensors_on_gpu(path: Path, file: SafetensorsFile, device: torch.device) -> Mapping[str, torch.Tensor]:
    """Return every tensor of a safetensors file, on the GPU.

    Raises
    ------
    StorageError
        When the file cannot be read.
    """
    tensors: dict[str, torch.Tensor] = {}
    pieces: list[tuple[torch.Tensor, int]] = []
    for name in file:
        place = file.location(name)
        target = torch.empty(place.nbytes, dtype=torch.uint8, device=device)
        tensors[name] = target.view(torch_dtype(place.dtype)).view(place.shape)
        for start in range(0, place.nbytes, CHUNK_BYTES):
            pieces.append((target[start : start + CHUNK_BYTES], place.offset + start))
    torch.cuda.synchronize(device)  # the memory is this process's before other streams write to it
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise storage_error(error, path, "read the engine") from error
    try:
        sender = _Sender(descriptor, device, path)
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(sender.send, pieces):
                pass
        torch.cuda.synchronize(device)
    finally:
        os.close(descriptor)
    return tensors


class _Sender:
    """What a thread sends with: two pinned buffers, one being read into while the other is on its way."""

    def __init__(self, descriptor: int, device: torch.device, path: Path) -> None:
        self._descriptor, self._device, self._path = descriptor, device, path
        self._own = local()

    def send(self, piece: tuple[torch.Tensor, int]) -> None:
        target, offset = piece
        own = self._own
        if not hasattr(own, "buffers"):
            torch.cuda.set_device(self._device)
            own.stream = torch.cuda.Stream(self._device)
            own.buffers = [torch.empty(CHUNK_BYTES, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
            own.sent = [torch.cuda.Event(), torch.cuda.Event()]
            own.turn = 0
        own.turn = 1 - own.turn
        buffer, event = own.buffers[own.turn], own.sent[own.turn]
        event.synchronize()  # at once for an event that was never recorded
        chunk = buffer[: target.numel()]
        try:
            filled, view = 0, memoryview(chunk.numpy())
            while filled < len(view):
                count = os.preadv(self._descriptor, [view[filled:]], offset + filled)
                if count == 0:
                    raise OSError(f"the file ended {len(view) - filled:,} bytes early")
                filled += count
        except OSError as error:
            raise storage_error(error, self._path, "read the engine") from error
        # The caller may have made the target in inference mode, which is each thread's own.
        with torch.inference_mode(), torch.cuda.stream(own.stream):
            target.copy_(chunk, non_blocking=True)
            event.record(own.stream)
