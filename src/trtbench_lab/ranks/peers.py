"""Which GPUs of a group can write into each other's memory: every rank says what it sees, and all draw one conclusion.

Ranks may number the same GPUs differently (in cells `CUDA_VISIBLE_DEVICES` puts each rank's own first), so GPUs are
told apart by their UUID.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Sight:
    """What one rank sees.

    Attributes
    ----------
    own
        UUID of its GPU.
    visible
        UUIDs of all GPUs that it sees.
    reached
        Those of them whose memory its own GPU can map.
    triton
        Whether it can compile the kernel.
    """

    own: str
    visible: frozenset[str]
    reached: frozenset[str]
    triton: bool = True


def sight_of(device: torch.device) -> Sight:
    """Look from this rank's GPU."""
    own = device.index or 0
    uuids = [str(torch.cuda.get_device_properties(index).uuid) for index in range(torch.cuda.device_count())]
    reached = {
        uuid for index, uuid in enumerate(uuids) if index != own and torch.cuda.can_device_access_peer(own, index)
    }
    return Sight(uuids[own], frozenset(uuids), frozenset(reached), importlib.util.find_spec("triton") is not None)


def why_apart(group: Sequence[Sight]) -> str:
    """Return why the ranks of a group cannot share memory, in words; empty where they can.

    Parameters
    ----------
    group
        What each rank sees, by its number in the group.
    """
    for rank, sight in enumerate(group):
        if not sight.triton:
            return f"rank {rank} has no Triton to compile the kernel with"
        for other, peer in enumerate(group):
            if other == rank:
                continue
            if peer.own == sight.own:
                return f"ranks {min(rank, other)} and {max(rank, other)} share a GPU"
            if peer.own not in sight.visible:
                return f"rank {rank} does not see the GPU of rank {other} (another host, or CUDA_VISIBLE_DEVICES)"
            if peer.own not in sight.reached:
                return f"the GPU of rank {rank} does not reach the memory of rank {other}'s"
    return ""
