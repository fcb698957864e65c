"""This process's world: one control channel, and one communicator a layout, made when first asked for."""

from __future__ import annotations

import atexit
import functools
import sys
from typing import Any

from ..errors import EngineMismatchError
from ..specs import Mapping
from .launch import launched
from .protocol import Control, RankCommunicator

_communicators: dict[tuple[int, int, bool], RankCommunicator] = {}


@functools.cache
def control() -> Control | None:
    """Return the channel between this process and the ranks started with it; None for a process of its own.

    Every rank calls it; the first call starts MPI where a launcher of MPI has started them.
    """
    launch = launched()
    world: Control
    if launch.kind == "mpi":
        from .mpi import MpiControl

        world = MpiControl()
    elif launch.kind == "env":
        from .store import StoreControl

        world = StoreControl()
    else:
        return None
    _end_all_with_one(world)
    return world


def communicator_for(mapping: Mapping | None = None, *, custom_all_reduce: bool = True) -> RankCommunicator:
    """Return the communicator of this rank; every rank calls it with the same layout.

    NCCL carries the data where torch sees a GPU, MPI between CPUs. A GPU is given to each rank by its number on its
    host.

    Parameters
    ----------
    mapping
        The layout; its `rank` is replaced by this process's. None: all ranks of the world share every layer.
    custom_all_reduce
        Let the project's own kernel do small sums between GPUs that reach each other's memory.

    Raises
    ------
    EngineMismatchError
        When the layout's number of ranks is not the world's.
    MissingPackageError
        When mpi4py is needed and not usable.
    """
    launch = launched()
    layout = Mapping(tp_size=launch.size) if mapping is None else mapping
    check_world_size(layout.world_size, "mapping")
    import torch

    if layout.world_size == 1:
        from .alone import RankAlone

        return RankAlone(layout, torch.device("cpu"))
    layout = layout.with_rank(launch.rank)
    key = (layout.tp_size, layout.pp_size, custom_all_reduce)
    if key not in _communicators:
        if launch.kind == "mpi" and not torch.cuda.is_available():
            from .mpi import MpiRanks

            _communicators[key] = MpiRanks(layout)
        else:
            from .distributed import TorchRanks

            _communicators[key] = TorchRanks(layout, custom_all_reduce=custom_all_reduce)
            if (channel := control()) is not None:
                _end_all_with_one(channel)
    return _communicators[key]


def _end_all_with_one(world: Control) -> None:
    """Let a program that ends by an error end all ranks, once it has shown the error; notebooks catch theirs before.

    What rank 0 told the others of is its own to show and to end by. Called again where a library has put its own hook
    before this one: torch.distributed's holds back what the hooks below it print until they return, and an abort in
    there would take the error along.
    """
    show = sys.excepthook

    def shown_and_ended(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if world.rank and (getattr(error, "led", False) or getattr(error, "agreed", False)):
            return
        show(kind, error, trace)
        sys.stdout.flush()
        sys.stderr.flush()
        if sys.excepthook is shown_and_ended:
            world.abort(1)
        else:
            atexit.register(world.abort, 1)

    sys.excepthook = shown_and_ended


def check_world_size(world_size: int, where: str) -> None:
    """Raise `EngineMismatchError` when this process's world is not of that size."""
    here = launched().size
    if here == world_size:
        return
    if here == 1:
        how = f"Start {world_size} processes: mpirun -n {world_size} trtbench run …, or %%trt_mpi -n {world_size}."
    else:
        how = f"Start {world_size} rank(s), or convert and build the model for {here} (--tp_size, --pp_size)."
    raise EngineMismatchError(
        f"{world_size} rank(s) are needed, and {here} {'was' if here == 1 else 'were'} started.",
        where=where,
        remedy=how,
    )
