"""Latency, throughput and memory of a runner: static batches, one clock, raw samples kept."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bandwidth import ReadBandwidth, decode_read_bytes, read_bandwidth
    from .memory import MemoryFigures, MemoryProbe
    from .result import BenchPoint, BenchResult
    from .static import random_prompts, run_static

_HOMES = {
    "BenchPoint": "result",
    "BenchResult": "result",
    "MemoryFigures": "memory",
    "MemoryProbe": "memory",
    "ReadBandwidth": "bandwidth",
    "decode_read_bytes": "bandwidth",
    "random_prompts": "static",
    "read_bandwidth": "bandwidth",
    "run_static": "static",
}

__all__ = [
    "BenchPoint",
    "BenchResult",
    "MemoryFigures",
    "MemoryProbe",
    "ReadBandwidth",
    "decode_read_bytes",
    "random_prompts",
    "read_bandwidth",
    "run_static",
]


def __getattr__(name: str) -> Any:
    # Stored results are read without torch, which the measuring modules need.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
