"""How fast this machine multiplies matrices: the other ceiling beside the read bandwidth."""

from __future__ import annotations

import functools
import time

_CPU_SIZE, _GPU_SIZE = 1024, 8192
_BUDGET_S = 0.3


def matrix_rate(device_name: str, dtype: str, threads: int) -> float:
    """Return the best rate of a square matrix product, in floating-point operations a second; measured once a process.

    Parameters
    ----------
    device_name
        ``"cpu"``, ``"cuda:0"`` …
    dtype
        Type of the matrices, as torch names it.
    threads
        Threads of the CPU that compute; a rate belongs to their number.
    """
    return _measured(device_name, dtype, threads)


@functools.cache
def _measured(device_name: str, dtype: str, threads: int) -> float:
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
