"""A small process that outlives the notebook's kernel by a second, to end the world that the kernel leaves behind.

``python -m trtbench_lab.distributed.keeper WORLD_ID PARENT_PID FOLDER``: it loads psutil alone, so it starts at once.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from .names import FOLDER_PREFIX, RANKS, WORLD

JOB_FILE = "slurm_job"
_LOOK_EVERY_S = 0.5


def processes_of(world_id: str, ranks: str | None = None) -> list[psutil.Process]:
    """Return the living processes of this user that were started for a world, or for one start of its ranks."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error, OSError):
            values = process.environ()
            if values.get(WORLD) == world_id and ranks in (None, values.get(RANKS)):
                found.append(process)
    return found


def end_processes(world_id: str, ranks: str | None = None, *, patience_s: float = 5.0) -> int:
    """Kill them, and those that they start meanwhile; return how many did not go within `patience_s`."""
    until = time.monotonic() + patience_s
    while (left := processes_of(world_id, ranks)) and time.monotonic() < until:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=0.5)
    return len(left)


def cancel_job(folder: Path) -> None:
    """Give a Slurm job back whose number stands in the world's folder."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        job = (folder / JOB_FILE).read_text().strip()
        subprocess.run(["scancel", job], check=False, timeout=30, stdin=subprocess.DEVNULL, capture_output=True)
        (folder / JOB_FILE).unlink()


def main(world_id: str, parent: int, folder: Path) -> None:
    """Wait until the process `parent`, which started this one, has ended; then end the world."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY_S)
    cancel_job(folder)
    end_processes(world_id)
    if folder.name.startswith(FOLDER_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
