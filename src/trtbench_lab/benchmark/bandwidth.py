"""How fast this machine reads memory, and how much of it a decode step has to read: the limit at batch 1."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from ..specs import ModelConfig

_LAST_LEVEL_CACHES = "devices/system/cpu/cpu0/cache"
_CPU_SET_BYTES = 256 << 20
_GPU_SET_BYTES = 2 << 30
_BUDGET_S = 0.15  # a kernel; four kernels and the fill of the buffer stay under 1 s


@dataclass(frozen=True, kw_only=True)
class ReadBandwidth:
    """The best rate at which plain kernels read a buffer far larger than the caches.

    Attributes
    ----------
    bytes_per_s
        Best of all passes of all kernels: a ceiling, not an average.
    kernel
        Which one reached it.
    working_set_bytes, threads
        Size of the buffer, and threads that read it (0 on a GPU).
    """

    bytes_per_s: float
    kernel: str
    working_set_bytes: int
    threads: int


def read_bandwidth(device: torch.device | str = "cpu") -> ReadBandwidth:
    """Measure the read bandwidth of a device once a process and number of threads; takes about a second."""
    import torch

    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return _measured(str(device), torch.get_num_threads() if device.type == "cpu" else 0)


@functools.cache
def _measured(device_name: str, threads: int) -> ReadBandwidth:
    import torch

    device = torch.device(device_name)
    set_bytes = _GPU_SET_BYTES if device.type == "cuda" else _cpu_set_bytes()
    with torch.inference_mode():
        # Rows of 16 KiB, as in a weight matrix; ones, because a sum of zeros may be answered from one shared page.
        rows = torch.ones(set_bytes // 16384, 4096, dtype=torch.float32, device=device)
        vector = torch.ones(4096, dtype=torch.float32, device=device)
        blocks = rows.view(1024, -1)
        flat = rows.view(-1)
        kernels: dict[str, Callable[[], object]] = {
            "matrix-vector product": lambda: torch.mv(rows, vector),
            "sum of rows": lambda: blocks.sum(1),
            "maximum": lambda: flat.max(),
            "dot product": lambda: torch.dot(flat, flat),
        }
        best_s = {name: _best_s(kernel, device) for name, kernel in kernels.items()}
    # Every kernel reads the buffer once: the dot product of a tensor with itself loads each line a single time.
    winner = min(best_s, key=lambda name: best_s[name])
    return ReadBandwidth(
        bytes_per_s=rows.nbytes / best_s[winner], kernel=winner, working_set_bytes=rows.nbytes, threads=threads
    )


def _best_s(kernel: Callable[[], object], device: torch.device) -> float:
    import torch

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    kernel()
    wait()
    best_s, started_s = float("inf"), time.perf_counter()
    while True:
        before_s = time.perf_counter()
        kernel()
        wait()
        after_s = time.perf_counter()
        best_s = min(best_s, after_s - before_s)
        if after_s - started_s > _BUDGET_S:
            return best_s


def _cpu_set_bytes(sysfs: Path = Path("/sys")) -> int:
    """At least 256 MiB and four times the last-level cache, so that little of it survives a pass; at most 1 GiB."""
    sizes = [0]
    for entry in (sysfs / _LAST_LEVEL_CACHES).glob("index*/size"):
        text = entry.read_text().strip()
        if text.endswith(("K", "M")) and text[:-1].isdigit():
            sizes.append(int(text[:-1]) << (10 if text.endswith("K") else 20))
    wanted = max(_CPU_SET_BYTES, 4 * max(sizes))
    return min(wanted, 1 << 30) // (16 << 20) * (16 << 20)


def decode_read_bytes(config: ModelConfig, *, compute_dtype: str | None = None) -> int:
    """Return the bytes of weights that one rank reads in every decode step, whatever the batch size.

    All of them, quantized layers as stored with their scales, but for the embedding tables, of which single rows are
    looked up; a table that is also the head is read whole.

    Parameters
    ----------
    config
        The model as it lies in the checkpoint.
    compute_dtype
        Data type in which the engine keeps what is not quantized; None for the checkpoint's.
    """
    from ..checkpoint.layout import expected_tensors, nbytes

    total = 0
    for name, (shape, dtype) in expected_tensors(config).items():
        is_table = name.endswith("_embedding.weight")
        if is_table and not (config.share_embedding_table and "vocab" in name):
            continue
        floating = compute_dtype if compute_dtype is not None and dtype == config.dtype else dtype
        total += nbytes(shape, floating)
    return total
