"""What the machine at hand can do at most, measured by plain kernels once a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .result import Ceilings

if TYPE_CHECKING:
    import torch


def measured_ceilings(device: torch.device | str, dtype: str = "float32") -> Ceilings:
    """Measure how fast a device reads memory and multiplies matrices of `dtype`; takes under two seconds."""
    import torch

    from ..benchmark.bandwidth import read_bandwidth
    from ..benchmark.matrix_rate import matrix_rate

    device = torch.device(device)
    read = read_bandwidth(device)
    flops = matrix_rate(str(device), dtype, torch.get_num_threads())
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return Ceilings(
        read_bytes_per_s=read.bytes_per_s,
        flops_per_s=flops,
        source=f"measured on {where}: {read.kernel} over {read.working_set_bytes / 2**20:.0f} MiB, matrix "
        f"product in {dtype}",
    )
