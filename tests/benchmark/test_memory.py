"""Memory figures: what is watched is seen, and different things keep different names."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time

import pytest

from trtbench_lab.benchmark import memory
from trtbench_lab.benchmark.memory import MemoryFigures, MemoryProbe, measure_memory, watch_memory
from trtbench_lab.benchmark.nvml import DeviceMemory
from trtbench_lab.results.catalogue import METRICS

MIB = 1 << 20


def test_a_peak_between_two_looks_is_seen():
    # In a process of its own, because the kernel's mark only tells where it rises above every earlier peak.
    code = """
from trtbench_lab.benchmark.memory import MemoryProbe
with MemoryProbe(interval_s=3600) as probe:
    before = probe._peaks["process_rss_peak_bytes"]
    block = bytearray(b"x") * (256 << 20)
    del block
print(probe.figures.process_rss_peak_bytes - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 250 * MIB


def test_a_peak_that_stays_for_some_looks_is_seen():
    # In a process of its own as well: here the allocator may hand back pages of earlier tests meanwhile.
    code = """
import time
import numpy as np
from trtbench_lab.benchmark.memory import measure_memory
def work():
    block = np.ones(64 << 17)
    time.sleep(0.2)
    block.sum()
before = measure_memory(lambda: None).process_rss_peak_bytes
print(measure_memory(work).process_rss_peak_bytes - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # 64 MiB in one block, less what small allocations elsewhere may have given back.
    assert int(done.stdout) >= 48 * MIB


def test_without_a_gpu_its_figures_are_missing_not_zero():
    figures = measure_memory(lambda: None)
    assert figures.process_gpu_peak_bytes is None
    assert figures.device_gpu_peak_bytes is None
    assert figures.allocator_reserved_peak_bytes is None
    assert figures.gpu_peak == (None, "device")


def test_the_gpu_figure_of_the_line_is_the_processs_where_known():
    assert MemoryFigures(process_gpu_peak_bytes=3, device_gpu_peak_bytes=9).gpu_peak == (3, "process")
    assert MemoryFigures(device_gpu_peak_bytes=9).gpu_peak == (9, "device")


def test_five_figures_have_five_definitions():
    named = MemoryFigures().named()
    assert len({metric.definition for metric, _ in named}) == 5
    assert all(METRICS[tag].unit == "bytes" for tag in MemoryFigures().as_metrics())


def test_the_probe_ends_when_the_work_fails():
    with pytest.raises(ZeroDivisionError):
        measure_memory(lambda: 1 // 0)


class FakeDriver:
    """NVML with one GPU whose processes are given; it fills the callers' structures as the C library does."""

    def __init__(self, processes: list[tuple[int, int]], used: int = 7 * MIB):
        self.processes, self.memory_used, self.opened = processes, used, 0

    def nvmlInit_v2(self) -> int:
        self.opened += 1
        return 0

    def nvmlShutdown(self) -> int:
        self.opened -= 1
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: object) -> int:
        return 0 if uuid == b"GPU-1" else 6

    def nvmlDeviceGetMemoryInfo(self, handle: object, memory: object) -> int:
        memory._obj.used = self.memory_used
        return 0

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle: object, count: object, infos: ctypes.Array) -> int:
        room, count._obj.value = count._obj.value, len(self.processes)
        if room < len(self.processes):
            return 7
        for info, (pid, used) in zip(infos, self.processes, strict=False):
            info.pid, info.usedGpuMemory = pid, used
        return 0


def test_the_driver_tells_device_and_process_apart():
    driver = FakeDriver([(1, 5 * MIB), (os.getpid(), 2 * MIB)])
    gpu = DeviceMemory.of_uuid("GPU-1", driver)
    assert gpu is not None
    assert (gpu.used(), gpu.of_process(), gpu.of_process(1), gpu.of_process(99)) == (7 * MIB, 2 * MIB, 5 * MIB, None)
    gpu.close()
    assert driver.opened == 0


def test_a_long_list_of_processes_is_asked_for_again():
    driver = FakeDriver([(pid, pid) for pid in range(1000, 1100)])
    gpu = DeviceMemory.of_uuid("GPU-1", driver)
    assert gpu is not None
    assert gpu.of_process(1099) == 1099


def test_unknown_memory_is_missing():
    gpu = DeviceMemory.of_uuid("GPU-1", FakeDriver([(os.getpid(), (1 << 64) - 1)]))
    assert gpu is not None
    assert gpu.of_process() is None


def test_an_unknown_gpu_or_no_driver_is_none():
    driver = FakeDriver([])
    assert DeviceMemory.of_uuid("GPU-2", driver) is None
    assert driver.opened == 0


@pytest.mark.gpu
def test_on_a_gpu_the_figures_nest():
    import torch

    device = torch.device("cuda")
    size = 256 * MIB

    def work() -> None:
        block = torch.empty(size, dtype=torch.uint8, device=device)
        block.fill_(1)
        torch.cuda.synchronize()
        time.sleep(0.05)
        del block

    figures = measure_memory(work, device)
    allocated, reserved = figures.allocator_allocated_peak_bytes, figures.allocator_reserved_peak_bytes
    assert allocated is not None
    assert reserved is not None
    assert figures.device_gpu_peak_bytes is not None
    assert size <= allocated <= reserved <= figures.device_gpu_peak_bytes
    if figures.process_gpu_peak_bytes is not None:  # the driver may hide processes from a container
        assert reserved < figures.process_gpu_peak_bytes <= figures.device_gpu_peak_bytes


def test_the_timeline_has_a_column_for_what_is_known_and_none_for_the_rest():
    figures, timeline = watch_memory(lambda: time.sleep(0.03))
    assert len(timeline.time_ms) == len(timeline.process_rss_bytes) >= 2
    assert timeline.time_ms == sorted(timeline.time_ms)
    assert max(timeline.process_rss_bytes) <= (figures.process_rss_peak_bytes or 0)
    assert timeline.device_gpu_bytes == timeline.allocator_reserved_bytes == []


def test_a_long_watch_keeps_few_looks_and_still_covers_it_all(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "MAX_LOOKS", 16)
    with MemoryProbe(interval_s=3600) as probe:
        for _ in range(200):
            probe._look()
    moments = probe.timeline.time_ms
    assert 8 <= len(moments) <= 16
    assert moments[0] < moments[len(moments) // 2] < moments[-1]
    kept = probe._stride
    assert probe._count - kept <= (len(moments) - 1) * kept < probe._count  # evenly, up to the last stride
