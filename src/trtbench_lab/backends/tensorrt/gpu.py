"""Which GPU and driver timings and plans belong to."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path

AMPERE = 80
"""Compute capability from which engines built with hardware_compatibility ampere_plus run."""
_DRIVER_FILE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Gpu:
    """The GPU that this process builds on.

    Attributes
    ----------
    name
        As CUDA names it.
    compute_capability
        As 90 for 9.0; 0 where there is none.
    driver
        Version of the kernel driver, or ``"unknown"``.
    """

    name: str
    compute_capability: int
    driver: str


def current_gpu() -> Gpu:
    """Return the current CUDA device of this process."""
    import torch

    if not torch.cuda.is_available():
        return Gpu("none", 0, driver_version())
    major, minor = torch.cuda.get_device_capability()
    return Gpu(torch.cuda.get_device_name(), 10 * major + minor, driver_version())


def driver_version() -> str:
    """Return the version of NVIDIA's kernel driver, ``"unknown"`` where it does not say."""
    try:
        text = _DRIVER_FILE.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "unknown"
    found = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", text)
    return found.group(1) if found else "unknown"


def machine_key() -> str:
    """Name the kind of machine that a plan built here is good for."""
    gpu = current_gpu()
    return f"{platform.machine()} cuda sm{gpu.compute_capability} {gpu.name}"


def runs_on(here: str, built_on: str, hardware_compatibility: str) -> bool:
    """Whether an engine of one `machine_key` runs on a machine of another, by the compatibility it was built with."""
    if here == built_on:
        return True
    form = re.compile(r"(\S+) cuda sm(\d+) .*")
    ours, theirs = form.fullmatch(here), form.fullmatch(built_on)
    if ours is None or theirs is None or ours.group(1) != theirs.group(1):
        return False
    if hardware_compatibility == "ampere_plus":
        return int(ours.group(2)) >= AMPERE
    return hardware_compatibility == "same_compute_capability" and ours.group(2) == theirs.group(2)
