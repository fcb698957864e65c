"""Several ranks: NCCL's communicator, wrapped for TensorRT, and what must agree before an engine is loaded."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from ...errors import EngineError, EngineMismatchError
from ...specs import Mapping

_CAPSULE_NAME = b"ncclComm_t"
_HOW = (
    "Pass communicator= with a nccl.core.Communicator (package nccl4py), a torch.distributed process group of the nccl "
    "backend, or an object with .pointer, .rank and .size."
)


class NcclGroup:
    """The ranks that compute one model together.

    Attributes
    ----------
    pointer
        Address of the initialised ``ncclComm_t``; it must outlive every engine that got it.
    rank, size
        This process's place in it, and how many there are.
    source
        What owns the communicator; kept alive.
    """

    def __init__(self, pointer: int, rank: int, size: int, source: Any = None):
        if pointer == 0:
            raise EngineError(
                "The NCCL communicator is not initialised.",
                where="communicator",
                remedy="Run one collective on the group first (a barrier), or give init_process_group a device_id.",
            )
        self.pointer, self.rank, self.size, self.source = pointer, rank, size, source

    def capsule(self) -> Any:
        """Return a PyCapsule around the communicator, the form that `IExecutionContext.set_communicator` takes."""
        make = ctypes.pythonapi.PyCapsule_New
        make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return make(ctypes.c_void_p(self.pointer), _CAPSULE_NAME, None)


def nccl_group(source: Any) -> NcclGroup:
    """Return the group behind whatever there is: this class, nccl4py's communicator, torch's process group, or ranks
    of this project that hold one.

    Raises
    ------
    EngineError
        For anything else, a torch group without NCCL, or one that is not initialised yet.
    """
    if isinstance(source, NcclGroup):
        return source
    for pointer, size in (("pointer", "size"), ("ptr", "nranks"), ("ptr", "size")):  # ours; nccl4py, by version
        if hasattr(source, pointer) and hasattr(source, size) and hasattr(source, "rank"):
            address, rank, number = (int(_value(getattr(source, name))) for name in (pointer, "rank", size))
            return NcclGroup(address, rank, number, source)
    if hasattr(source, "process_group"):  # the project's own ranks
        source = source.process_group()
    if hasattr(source, "_get_backend"):
        return _from_torch(source)
    raise EngineError(
        f"A {type(source).__name__} is no NCCL communicator.",
        where="communicator",
        remedy=_HOW,
    )


def checked_group(mapping: Mapping, communicator: Any | None, where: str) -> NcclGroup | None:
    """Hold the communicator against the engine's mapping, before any file is read; None for an engine of one rank.

    Raises
    ------
    EngineMismatchError
        When their sizes or ranks differ.
    EngineError
        When the engine needs a communicator and there is none.
    """
    if mapping.tp_size == 1:
        return None
    if communicator is None:
        raise EngineError(
            f"The engine is split over {mapping.tp_size} tensor-parallel ranks that must talk to each other.",
            where=where,
            remedy=f"Start one process a GPU ({mapping.world_size} in all). {_HOW}",
        )
    group = nccl_group(communicator)
    if group.size != mapping.tp_size:
        raise EngineMismatchError(
            f"The engine was built for {mapping.tp_size} tensor-parallel ranks; the communicator has {group.size}.",
            where=where,
            remedy=f"Start {mapping.world_size} processes, or convert and build the model for {group.size} ranks.",
        )
    if group.rank != mapping.tp_rank:
        raise EngineMismatchError(
            f"Rank {mapping.tp_rank} of the engine is loaded by rank {group.rank} of the communicator.",
            where=where,
            remedy="Load the engine of the rank that the process has in its communicator.",
        )
    return group


def _from_torch(group: Any) -> NcclGroup:
    import torch

    try:
        backend = group._get_backend(torch.device("cuda"))
        pointer: Callable[[], int] = backend._comm_ptr
    except (RuntimeError, AttributeError) as error:
        raise EngineError(
            "The torch process group has no NCCL communicator for GPUs.",
            where="communicator",
            remedy="Start it with init_process_group('nccl', device_id=…). " + _HOW,
            details=str(error),
        ) from error
    return NcclGroup(int(pointer()), int(group.rank()), int(group.size()), group)


def _value(found: Any) -> Any:
    return found() if callable(found) else found
