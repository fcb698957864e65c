"""Peak memory while something runs: five different numbers with five names, never mixed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..engine.memory import peak_bytes_of
from ..results.catalogue import METRICS
from ..results.metric import Metric
from .nvml import DeviceMemory

if TYPE_CHECKING:
    import torch

INTERVAL_S = 0.005
MAX_LOOKS = 1000  # kept of a timeline: more would not be told apart in a figure


@dataclass(frozen=True, kw_only=True)
class MemoryFigures:
    """Peaks in bytes; None for what cannot be known here. The catalogue of metrics defines each."""

    process_rss_peak_bytes: int | None = None
    process_gpu_peak_bytes: int | None = None
    device_gpu_peak_bytes: int | None = None
    allocator_reserved_peak_bytes: int | None = None
    allocator_allocated_peak_bytes: int | None = None

    def as_metrics(self) -> dict[str, int | float | None]:
        """Return the figures under their names."""
        return {metric.tag: value for metric, value in self.named()}

    def named(self) -> list[tuple[Metric, int | None]]:
        """Return each figure with its definition."""
        return [(METRICS[tag], getattr(self, tag)) for tag in self.__dataclass_fields__]

    @property
    def gpu_peak(self) -> tuple[int | None, str]:
        """The figure for ``gpu_peak_mem`` and whose it is: the process's where the driver tells, else the device's."""
        if self.process_gpu_peak_bytes is not None:
            return self.process_gpu_peak_bytes, "process"
        return self.device_gpu_peak_bytes, "device"


@dataclass(frozen=True, kw_only=True)
class MemoryTimeline:
    """Memory at each look, in bytes; a column of what cannot be known here is empty.

    Attributes
    ----------
    time_ms
        Milliseconds since the watch began.
    process_rss_bytes, process_gpu_bytes, device_gpu_bytes, allocator_reserved_bytes, allocator_allocated_bytes
        As `MemoryFigures` names them, at that moment.
    """

    time_ms: list[float] = field(default_factory=list)
    process_rss_bytes: list[int] = field(default_factory=list)
    process_gpu_bytes: list[int] = field(default_factory=list)
    device_gpu_bytes: list[int] = field(default_factory=list)
    allocator_reserved_bytes: list[int] = field(default_factory=list)
    allocator_allocated_bytes: list[int] = field(default_factory=list)


class MemoryProbe:
    """Context manager that watches memory from a thread of its own.

    It looks every 5 ms, each look taking some 20 µs; so that this never enters a timing, the benchmark watches runs
    that it does not time. The process's own peak is exact where the kernel's high-water mark rose meanwhile.

    Parameters
    ----------
    device
        The torch device whose GPU is watched; None or a CPU for none.
    """

    def __init__(self, device: torch.device | None = None, *, interval_s: float = INTERVAL_S):
        self._gpu_index = _gpu_index(device)
        self._interval_s = interval_s
        self._peaks: dict[str, int] = {}
        self._looks: list[tuple[float, dict[str, int]]] = []
        self._count, self._stride = 0, 1
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.figures = MemoryFigures()
        self.timeline = MemoryTimeline()

    def __enter__(self) -> Self:
        self._high_water = peak_bytes_of(os.getpid())
        self._device_memory = None if self._gpu_index is None else DeviceMemory.of_torch_device(self._gpu_index)
        if self._gpu_index is not None:
            import torch

            torch.cuda.reset_peak_memory_stats(self._gpu_index)
        self._began = time.perf_counter()
        self._look()
        self._thread = threading.Thread(target=self._watch, name="memory-probe", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._look()
        self._note_high_water()
        if self._gpu_index is not None:
            import torch

            self._note("allocator_reserved_peak_bytes", torch.cuda.max_memory_reserved(self._gpu_index))
            self._note("allocator_allocated_peak_bytes", torch.cuda.max_memory_allocated(self._gpu_index))
        if self._device_memory is not None:
            self._device_memory.close()
        self.figures = MemoryFigures(**self._peaks)
        self.timeline = _timeline(self._looks)

    def _watch(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._look()

    def _look(self) -> None:
        seen: dict[str, int | None] = {"process_rss": _resident_bytes()}
        if self._device_memory is not None:
            seen["process_gpu"] = self._device_memory.of_process()
            seen["device_gpu"] = self._device_memory.used()
        for name, value in seen.items():
            self._note(f"{name}_peak_bytes", value)
        if self._count % self._stride == 0:
            self._keep({**seen, **self._allocator()})
        self._count += 1

    def _allocator(self) -> dict[str, int | None]:
        if self._gpu_index is None:
            return {}
        import torch

        return {
            "allocator_reserved": torch.cuda.memory_reserved(self._gpu_index),
            "allocator_allocated": torch.cuda.memory_allocated(self._gpu_index),
        }

    def _keep(self, seen: dict[str, int | None]) -> None:
        """Add a look to the timeline; a full one is thinned to every second look and goes on at half the rate."""
        known = {name: value for name, value in seen.items() if value is not None}
        self._looks.append(((time.perf_counter() - self._began) * 1e3, known))
        if len(self._looks) >= MAX_LOOKS:
            self._looks = self._looks[::2]
            self._stride *= 2

    def _note_high_water(self) -> None:
        after = peak_bytes_of(os.getpid())
        if after is not None and self._high_water is not None and after > self._high_water:
            self._note("process_rss_peak_bytes", after)

    def _note(self, name: str, value: int | None) -> None:
        if value is not None:
            self._peaks[name] = max(value, self._peaks.get(name, 0))


def measure_memory(work: Callable[[], object], device: torch.device | None = None) -> MemoryFigures:
    """Run `work` and return the peaks meanwhile."""
    return watch_memory(work, device)[0]


def watch_memory(
    work: Callable[[], object], device: torch.device | None = None
) -> tuple[MemoryFigures, MemoryTimeline]:
    """Run `work` and return the peaks meanwhile, and the memory at each look."""
    with MemoryProbe(device) as probe:
        work()
    return probe.figures, probe.timeline


def _timeline(looks: list[tuple[float, dict[str, int]]]) -> MemoryTimeline:
    """Return the looks by columns; a column that some look lacks is left out, so that all are of one length."""
    names = set.intersection(*(set(seen) for _, seen in looks)) if looks else set()
    columns = {f"{name}_bytes": [seen[name] for _, seen in looks] for name in names}
    return MemoryTimeline(time_ms=[round(moment, 3) for moment, _ in looks], **columns)


def _gpu_index(device: torch.device | None) -> int | None:
    if device is None or device.type != "cuda":
        return None
    import torch

    return torch.cuda.current_device() if device.index is None else device.index


def _resident_bytes() -> int | None:
    try:
        with open("/proc/self/statm", "rb") as handle:
            return int(handle.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # no procfs: macOS
        import psutil

        return int(psutil.Process().memory_info().rss)
