"""What it costs the ranks of one model to talk: sums between the ranks of a layer, transfers between stages."""

from __future__ import annotations

import math

from .gpus import Gpu

# Measured on NVLink between 2 and 4 H200 (benchmarks/mpi_gpu.py), of calls in a replayed graph. The project's one
# kernel for small sums: 2.1 and 3.0 µs at 4 KiB, 5.2 and 5.3 µs at the largest size it takes.
ONE_SHOT_S, ONE_SHOT_RANK_S, ONE_SHOT_BYTES = 1.2e-6, 0.45e-6, 512 << 10
ONE_SHOT_BYTE_S = 5.7e-12
# NCCL's: 6.2 µs between 2, 9.2 between 4 at 4 KiB, so 3 µs more each time the ranks double; 31.8 and 39.4 at 4 MiB.
NCCL_S, NCCL_DOUBLING_S = 6.2e-6, 3.0e-6
HOST_GPUS = 8
HOSTS_S, HOSTS_BYTES_PER_S = 20e-6, 45e9  # beyond one host: an assumption, 400 Gb/s a GPU and a network's round trip
SEND_S = 10e-6  # an assumption
LINK_SHARE = 0.4  # of the published rate of the link in one direction, as measured at 1 to 4 MiB
MPI_S, MPI_BYTES_PER_S = 12e-6, 3e9  # between processes of one CPU machine: 5 to 12 µs for 4 KB


def all_reduce_s(nbytes: int, ranks: int, gpu: Gpu) -> float:
    """Return the seconds of a sum of `nbytes` over `ranks`: a fixed part, and 2·(n−1)/n of the bytes over the link."""
    if ranks < 2:
        return 0.0
    moved = 2 * (ranks - 1) / ranks * nbytes
    if gpu.is_cpu:
        return MPI_S + moved / MPI_BYTES_PER_S
    if (ranks - 1) * nbytes <= ONE_SHOT_BYTES and ranks <= HOST_GPUS:
        return ONE_SHOT_S + ONE_SHOT_RANK_S * ranks + (ranks - 1) * nbytes * ONE_SHOT_BYTE_S
    # Rings within a host; what crosses hosts goes at the network's rate.
    total_s = NCCL_S + NCCL_DOUBLING_S * (math.log2(ranks) - 1) + moved / (gpu.link_bytes_per_s / 2 * LINK_SHARE)
    return total_s if ranks <= HOST_GPUS else total_s + HOSTS_S + moved / HOSTS_BYTES_PER_S


def send_s(nbytes: int, gpu: Gpu) -> float:
    """Return the seconds of a transfer of `nbytes` from one stage to the next."""
    if gpu.is_cpu:
        return MPI_S + nbytes / MPI_BYTES_PER_S
    return SEND_S + nbytes / (gpu.link_bytes_per_s / 2 * LINK_SHARE)


BASIS = (
    "sums between ranks: as measured by NVLink between 2 and 4 H200 (2 to 3 µs where small, NCCL's 6 to 9 µs), carried "
    "on to 8 in a host; beyond a host 20 µs and 400 Gb/s a GPU, assumed"
)
