"""Small sums between GPUs by one kernel of our own, where NCCL's several steps cost more than the data."""

from __future__ import annotations

import logging
from typing import Any

import torch

from ..specs import Mapping
from .peer_memory import PeerMemory, peer_memory
from .peers import sight_of, why_apart

_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
BLOCK_WORDS = 512
TRAFFIC_BYTES = 512 << 10
"""Most bytes that a rank writes to the others in one sum; beyond, NCCL moves fewer bytes and is quicker."""

_log = logging.getLogger(__name__)


class OneShot:
    """See `kernels.one_shot`; calls may be captured into CUDA graphs, by all ranks alike.

    Parameters
    ----------
    rank, ranks
        Place in the group, and its size.
    memory
        Buffers of `buffer_bytes`.
    device
        Where the kernel runs.
    """

    def __init__(self, rank: int, ranks: int, memory: PeerMemory, device: torch.device) -> None:
        self.rank, self.ranks, self.memory, self.device = rank, ranks, memory, device
        self.slots = largest_words(ranks)
        self._calls = torch.zeros(-(-self.slots // BLOCK_WORDS), dtype=torch.int32, device=device)
        self._dependent = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 9

    def takes(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> bool:
        """Whether this sum is small enough to be quicker here than by NCCL, and lies in whole words of memory."""
        small = x.dtype in _KINDS and x.nbytes % 4 == 0 and 0 < x.nbytes <= 4 * self.slots and _lies_whole(x)
        alike = residual is None or (residual.dtype == x.dtype and residual.shape == x.shape and _lies_whole(residual))
        return small and alike

    def all_reduce(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Return the sum of the ranks' `x`, plus `residual`, rounded once; in the memory of `residual`, or of `x`."""
        from .kernels.one_shot import one_shot_kernel

        out = x if residual is None else residual
        words = x.nbytes // 4
        grid = (-(-words // BLOCK_WORDS),)
        arguments = (_words(x), _words(out), _words(out), self.memory.addresses, self._calls, words, self.slots)
        constants: dict[str, Any] = {
            "RANK": self.rank,
            "WORLD": self.ranks,
            "BLOCK": BLOCK_WORDS,
            "KIND": _KINDS[x.dtype],
            "RESIDUAL": residual is not None,
            "PDL": self._dependent,
        }
        if self.device.type == "cuda":
            options = {"launch_pdl": True} if self._dependent else {}
            one_shot_kernel[grid](*arguments, **constants, num_warps=4, **options)
        else:
            from ..plugins.frame.interpreter import interpret

            interpret(one_shot_kernel, grid, arguments, constants)
        return out

    def close(self) -> None:
        """Let go of the buffers; they stay mapped until the process ends, since another rank may still read."""
        self.memory = None  # type: ignore[assignment]


def largest_words(ranks: int) -> int:
    """4-byte words of the largest sum."""
    return TRAFFIC_BYTES // (ranks - 1) // (4 * BLOCK_WORDS) * BLOCK_WORDS


def buffer_bytes(ranks: int) -> int:
    """Bytes of one rank's buffers: two sets, a part a rank, 8 bytes a word."""
    return 2 * ranks * largest_words(ranks) * 8


def one_shot_for(group: Any, mapping: Mapping, device: torch.device) -> OneShot | None:
    """Return the kernel's side of this rank; None where GPUs do not reach each other, which is logged with the reason.

    Every rank of the group calls it.
    """
    import torch.distributed as dist

    ranks = mapping.tp_size
    seen: list[Any] = [None] * ranks
    dist.all_gather_object(seen, sight_of(device), group=group)
    if apart := why_apart(seen):
        _log.info("custom all-reduce: off, because %s", apart)
        return None
    memory, how = peer_memory(group, ranks, buffer_bytes(ranks), device)
    if memory is None:
        _log.warning("custom all-reduce: off, because no memory could be mapped between the GPUs (%s)", how)
        return None
    _log.info("custom all-reduce: sums of up to %d KiB by one kernel over %s", 4 * largest_words(ranks) >> 10, how)
    return OneShot(mapping.tp_rank, ranks, memory, device)


def _lies_whole(x: torch.Tensor) -> bool:
    return x.is_contiguous() and x.storage_offset() * x.element_size() % 4 == 0


def _words(x: torch.Tensor) -> torch.Tensor:
    return x.view(-1).view(torch.int32)
