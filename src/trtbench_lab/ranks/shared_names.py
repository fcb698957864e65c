"""Names in ``/dev/shm`` that MPICH gives to the memory its ranks share, and leaves there when a rank is killed.

MPICH makes the name from the number of the process that started the ranks (`mpiexec.gforker`), and opens what is there
already. So a world whose launcher gets a number again that a killed world's had would read that one's addresses, and
end in "UCX ERROR failed to unpack address". In a container that starts its processes anew the numbers return at once;
each name also holds 1 MB a rank.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

FOLDER = Path("/dev/shm")  # noqa: S108 - the system's folder for shared memory
PREFIX = "mpich_shm_"
_OLD_S = 60.0
"""A start takes seconds; afterwards no rank opens the name again."""


_REMOVE_AND_START = (
    "import glob, os, sys; number = 0x811c9dc5; "
    "[number := (number ^ byte) * 0x1000193 & 0xffffffff for byte in b'kvs_%d_0' % os.getpid()]; "
    f"[os.unlink(path) for path in glob.glob('{FOLDER}/{PREFIX}%x_*' % number) if os.access(path, os.W_OK)]; "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
"""MPICH's name has the 32-bit FNV-1a hash of ``kvs_<process number>_0``."""


def without_its_name(launcher: str) -> tuple[str, ...]:
    """Return a command that starts `mpiexec.gforker` under a process number whose name has been removed before."""
    return (sys.executable, "-I", "-S", "-c", _REMOVE_AND_START, launcher)


def forget_own_names(folder: Path = FOLDER) -> None:
    """Remove the names of what MPI has mapped into this process; the memory lives on as long as a rank has it.

    Call it when every rank has come through MPI's start: then nothing is left behind, however the ranks end.
    """
    for name in _mapped_by("self", folder):
        with contextlib.suppress(OSError):
            (folder / name).unlink()


def sweep_names(folder: Path = FOLDER) -> int:
    """Remove this user's old names that no living process has mapped; return how many there were."""
    until = time.time() - _OLD_S
    old = set()
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if entry.name.startswith(PREFIX) and status.st_uid == os.geteuid() and status.st_mtime < until:
                    old.add(entry.name)
    if not old:
        return 0
    for process in filter(str.isdigit, os.listdir("/proc")):
        old -= _mapped_by(process, folder)
    for name in old:
        with contextlib.suppress(OSError):
            (folder / name).unlink()
    return len(old)


def _mapped_by(process: str, folder: Path) -> set[str]:
    try:
        lines = Path("/proc", process, "maps").read_text(errors="replace").splitlines()
    except OSError:
        return set()
    start = f"{folder}/{PREFIX}"
    paths = [line[line.index(start) :] for line in lines if start in line]
    return {os.path.basename(path) for path in paths if not path.endswith("(deleted)")}
