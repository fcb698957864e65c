"""The executor's view of CUDA over host memory: queued work is done at once, graphs are lists of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class HostStream:
    """A stream: its number, and which streams it was told to wait for."""

    number: int
    followed: list[int] = field(default_factory=list)


class HostCuda:
    """Stands in for `backends.tensorrt.cuda.CudaDevice`.

    Attributes
    ----------
    free
        What it says is free.
    captures
        Whether CUDA lets graphs be captured.
    capturing
        While a capture runs: what was queued so far, to be done by each replay.
    """

    def __init__(self, free: int = 64 << 30, captures: bool = True):
        self.device = torch.device("cpu")
        self.free, self.captures = free, captures
        self.capturing: list[Callable[[], None]] | None = None
        self.replays = 0
        self.synchronized = 0
        self.allocated: list[int] = []
        self._streams = 0
        self._default = HostStream(0)

    def new_stream(self) -> HostStream:
        self._streams += 1
        return HostStream(7000 + self._streams)

    def current_stream(self) -> HostStream:
        return self._default

    def handle(self, stream: HostStream) -> int:
        return stream.number

    def follow(self, stream: HostStream, earlier: HostStream) -> None:
        stream.followed.append(earlier.number)

    def synchronize(self, stream: HostStream) -> None:
        self.synchronized += 1

    def empty(self, nbytes: int) -> torch.Tensor:
        self.allocated.append(nbytes)
        memory = torch.empty(nbytes + 512, dtype=torch.uint8)  # aligned as CUDA's allocator does
        start = -memory.data_ptr() % 512
        return memory[start : start + nbytes]

    def free_bytes(self) -> int:
        return self.free

    def name(self) -> str:
        return "a simulated GPU"

    def capture(self, stream: HostStream, enqueue: Callable[[], None]) -> Callable[[], None] | None:
        if not self.captures:
            return None
        self.capturing = queued = []
        try:
            enqueue()
        finally:
            self.capturing = None

        def replay() -> None:
            self.replays += 1
            for work in queued:
                work()

        return replay

    def host_copy(self, address: int, shape: tuple[int, ...], dtype: torch.dtype, stream: int) -> torch.Tensor:
        from tests.backends.tensorrt.simulated_runtime import tensor_at

        return tensor_at(address, shape, dtype).clone()


def arguments(cuda: HostCuda) -> dict[str, Any]:
    """Return what `load_executor` takes to run on it."""
    return {"cuda": cuda}
