"""GPUs of this host by name, without loading CUDA, and the environment of a process that has one of them first."""

from __future__ import annotations

import os
from pathlib import Path

_DRIVER, _DEVICES = Path("/proc/driver/nvidia"), Path("/dev")


def gpus_here() -> list[str]:
    """Return the GPUs that processes started from here may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu.strip() for gpu in visible.split(",") if gpu.strip() not in ("", "-1")]
    for found in (_DRIVER.glob("gpus/*"), _DEVICES.glob("nvidia[0-9]*")):  # containers may lack the first
        if count := sum(1 for _ in found):
            return [str(index) for index in range(count)]
    return []


def with_first(gpus: list[str], number: int) -> dict[str, str]:
    """Return what puts GPU `number` (modulo their count) before the others, as ``cuda:0``; nothing without GPUs."""
    if not gpus:
        return {}
    first = number % len(gpus)
    found = {"CUDA_VISIBLE_DEVICES": ",".join(gpus[first:] + gpus[:first])}
    if "CUDA_VISIBLE_DEVICES" not in os.environ and "CUDA_DEVICE_ORDER" not in os.environ:
        found["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # numbers are nvidia-smi's, as they are shown
    return found
