"""Which launcher starts the ranks of this machine, of which MPI it is, and what that MPI needs to be told."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ..errors import WorldError
from ..ranks.shared_names import without_its_name

KINDS = {
    "Open MPI": re.compile(r"open ?mpi|openrte|prte|\bprrte\b", re.IGNORECASE),
    "MPICH": re.compile(r"mpich|hydra|intel\(r\) mpi|mvapich", re.IGNORECASE),
}
_OLD_OPEN_MPI = re.compile(r"(?:open ?mpi|openrte)\)? v?[1-4]\.", re.IGNORECASE)
_FORKS = "mpiexec.gforker"
INSTALL = "Install one: pip install 'trtbench-lab[mpi]'"


@dataclass(frozen=True)
class Launcher:
    """A program that starts ranks on this machine.

    Attributes
    ----------
    command
        The program and what it always gets.
    kind
        ``"MPICH"``, ``"Open MPI"``, or ``"unknown"``.
    environment
        What ranks of one machine need: no network, root and more ranks than cores allowed.
    """

    command: tuple[str, ...]
    kind: str
    environment: dict[str, str]

    @property
    def start(self) -> tuple[str, ...]:
        """`command` as it is to be run: behind what keeps a killed world's memory out of the new one."""
        program, *rest = self.command
        return (*without_its_name(program), *rest) if program.endswith(_FORKS) else self.command


def kind_of(text: str) -> str | None:
    """Return which MPI a version text is of, or None for one that is not known."""
    return next((name for name, pattern in KINDS.items() if pattern.search(text)), None)


def find_mpiexec() -> str | None:
    """Return the launcher: the one installed beside this Python first, since mpi4py finds that one's library first."""
    beside = Path(sys.executable).parent / "mpiexec"
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("mpiexec")


def version_text(mpiexec: str) -> str:
    """Return what a launcher says of itself; empty where it does not start."""
    try:
        done = subprocess.run(
            [mpiexec, "--version"], check=False, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout + done.stderr


def local_launcher(mpiexec: str | None = None) -> Launcher:
    """Return how to start ranks on this machine, with nothing that listens beyond it where the MPI lets that be.

    Raises
    ------
    WorldError
        When there is no launcher.
    """
    found = mpiexec or find_mpiexec()
    if found is None:
        raise WorldError("There is no mpiexec to start ranks with.", where="mpiexec", remedy=INSTALL + ".")
    text = version_text(found)
    kind = kind_of(text) or "unknown"
    if kind == "Open MPI":
        return Launcher((found,), kind, open_mpi_environment(text, is_root=os.geteuid() == 0))
    # Hydra, MPICH's usual launcher, waits for its helpers on every interface; gforker forks and opens no port.
    fork = Path(found).resolve().with_name(_FORKS)
    command = (str(fork),) if kind == "MPICH" and os.access(fork, os.X_OK) else (found,)
    return Launcher(command, kind, {"UCX_TLS": "self,sm"} if kind == "MPICH" else {})


def open_mpi_environment(version: str, *, is_root: bool) -> dict[str, str]:
    """Return what Open MPI 4 and 5 need on one machine: shared memory between ranks, no core tied to one.

    What carries messages by shared memory is called vader up to Open MPI 4, where sm ends the start, and sm since 5.
    Its launcher waits for helpers on every interface all the same: its runtime accepts no loopback interface.
    """
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if is_root else {}
    return {
        **root,
        "OMPI_MCA_pml": "ob1",
        "OMPI_MCA_btl": "self,vader" if _OLD_OPEN_MPI.search(version) else "self,sm",
        # More ranks than cores may be asked for, and a rank's threads may use any core.
        "OMPI_MCA_rmaps_base_oversubscribe": "true",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "PRTE_MCA_hwloc_default_binding_policy": "none",
    }
