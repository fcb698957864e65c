"""Whether this process is one of several ranks, from what its launcher has left: no MPI is loaded to find out."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

# (rank, size, place on its host) as launchers name them: Open MPI; Hydra (MPICH, Intel MPI); srun with PMIx.
_MPI_VARIABLES = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    ("PMIX_RANK", "SLURM_NTASKS", "SLURM_LOCALID"),
)
_TORCH_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
ALONE = "TRTBENCH_RANK_ALONE"
"""Set while a rank works without the others, as in a cell on a part of them: nobody may wait for the rest."""
OWN_GPU = "TRTBENCH_RANK_GPU"
"""The host's number or name of this rank's GPU, where its launcher lets the rank see it first: as ``cuda:0``."""


@dataclass(frozen=True)
class Launch:
    """This process among those that were started together.

    Attributes
    ----------
    kind
        ``"mpi"``, ``"env"`` (torchrun's variables), or ``"none"`` for a process of its own.
    rank, size
        Its number, and how many there are.
    local_rank
        Its number on its host, which is also its GPU; None where the launcher does not say.
    """

    kind: str = "none"
    rank: int = 0
    size: int = 1
    local_rank: int | None = None


def launched(environment: Mapping[str, str] | None = None) -> Launch:
    """Return what the launcher says; a world of one is no world.

    A process that has loaded MPI already is asked for its world; else the environment is read.
    """
    values = os.environ if environment is None else environment
    if values.get(ALONE) == "1":
        return Launch()
    for names in _MPI_VARIABLES:
        if (found := _read("mpi", names, values)) is not None:
            return found
    if environment is None and (mpi := sys.modules.get("mpi4py.MPI")) is not None and mpi.Is_initialized():
        world = mpi.COMM_WORLD
        if world.Get_size() > 1:
            return Launch("mpi", world.Get_rank(), world.Get_size())
    if "MASTER_ADDR" in values and (found := _read("env", _TORCH_VARIABLES, values)) is not None:
        return found
    return Launch()


def _read(kind: str, names: tuple[str, str, str], values: Mapping[str, str]) -> Launch | None:
    rank, size, local = (values.get(name, "") for name in names)
    if not (rank.isdigit() and size.isdigit()) or not 1 < int(size) > int(rank):
        return None
    return Launch(kind, int(rank), int(size), int(local) if local.isdigit() else None)
