"""Cells of a notebook on several ranks: a world of MPI processes, what they print and raise, and its end.

from trtbench_lab.distributed import World

with World(ranks=2) as world:
    print(world.run("rank, comm.allreduce(rank)").values)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .status import RankStatus

if TYPE_CHECKING:
    from .results import RankResults
    from .world import World

# ipyparallel is loaded when a world is first asked for: the package works without it.
_MODULES = {"World": "world", "current_world": "world", "RankResults": "results", "PendingCell": "cell"}

__all__ = ["PendingCell", "RankResults", "RankStatus", "World", "current_world"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
