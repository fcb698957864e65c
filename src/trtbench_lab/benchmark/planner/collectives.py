"""What it costs the ranks of one model to talk: sums between the ranks of a layer, transfers between stages."""

from __future__ import annotations

from .gpus import Gpu

# By assumption, until measured on the kind of GPU in question: a kernel that meets the others' flags, and a transfer.
LAUNCH_S = 10e-6
SEND_S = 10e-6
LINK_SHARE = 0.7  # of the published rate of the link, for large messages
MPI_S, MPI_BYTES_PER_S = 12e-6, 3e9  # between processes of one CPU machine: 5 to 12 µs for 4 KB


def all_reduce_s(nbytes: int, ranks: int, gpu: Gpu) -> float:
    """Return the seconds of a sum of `nbytes` over `ranks`: a fixed part, and 2·(n−1)/n of the bytes over the link."""
    if ranks < 2:
        return 0.0
    moved = 2 * (ranks - 1) / ranks * nbytes
    if gpu.is_cpu:
        return MPI_S + moved / MPI_BYTES_PER_S
    return LAUNCH_S + moved / (gpu.link_bytes_per_s / 2 * LINK_SHARE)


def send_s(nbytes: int, gpu: Gpu) -> float:
    """Return the seconds of a transfer of `nbytes` from one stage to the next."""
    if gpu.is_cpu:
        return MPI_S + nbytes / MPI_BYTES_PER_S
    return SEND_S + nbytes / (gpu.link_bytes_per_s / 2 * LINK_SHARE)


BASIS = "sums between ranks: 10 µs and the link's published rate at 70 %, assumed, not measured"
