"""What the machine at hand can do at most, measured by plain kernels once a process."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

from .result import Ceilings

if TYPE_CHECKING:
    import torch

_CPU_SIZE, _GPU_SIZE = 1024, 8192
_BUDGET_S = 0.3


def measured_ceilings(device: torch.device | str, dtype: str = "float32") -> Ceilings:
    """Measure how fast a device reads memory and multiplies matrices of `dtype`; takes under two seconds."""
    import torch

    from ..benchmark.bandwidth import read_bandwidth

    device = torch.device(device)
    read = read_bandwidth(device)
    flops = _matrix_rate(str(device), dtype, torch.get_num_threads())
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return Ceilings(
        read_bytes_per_s=read.bytes_per_s,
        flops_per_s=flops,
        source=f"measured on {where}: {read.kernel} over {read.working_set_bytes / 2**20:.0f} MiB, matrix "
        f"product in {dtype}",
    )


@functools.cache
def _matrix_rate(device_name: str, dtype: str, threads: int) -> float:
    """Return the best rate of a square matrix product, in floating-point operations a second."""
    import torch

    device = torch.device(device_name)
    size = _GPU_SIZE if device.type == "cuda" else _CPU_SIZE
    a = torch.rand(size, size, device=device).to(getattr(torch, dtype))
    b = torch.rand(size, size, device=device).to(getattr(torch, dtype))
    best_s, begun_s = float("inf"), time.perf_counter()
    with torch.inference_mode():
        while time.perf_counter() - begun_s < _BUDGET_S or best_s == float("inf"):
            before_s = time.perf_counter()
            torch.mm(a, b)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best_s = min(best_s, time.perf_counter() - before_s)
    return 2 * size**3 / best_s
