"""The program of a rank: takes its GPU, makes its stack readable from outside, and becomes an ipyparallel engine.

``mpiexec -n 4 python -m trtbench_lab.distributed.engine``
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
from pathlib import Path

from ..ranks.gpus import gpus_here, with_first
from ..ranks.launch import OWN_GPU
from .names import FOLDER, GPUS

STACK_SIGNAL = signal.SIGUSR1
"""Makes a rank write where it stands, in the middle of a blocked MPI call too."""
_LOCAL_RANK = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
_RANK = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")


def main() -> None:
    """Prepare this process, then hand it to ipyparallel."""
    pin_gpu()
    if folder := os.environ.get(FOLDER):
        # The handler is C: it runs at once, whatever Python or MPI is doing. The file must stay open as long as that.
        stack = (Path(folder) / stack_name(socket.gethostname(), os.getpid())).open("ab", buffering=0)
        faulthandler.register(STACK_SIGNAL, file=stack, all_threads=True)
    from ipyparallel.engine.app import main as engine_main

    engine_main()


def stack_name(host: str, pid: int) -> str:
    """Return the name of the file that a process writes its stacks to."""
    return f"stack-{host}-{pid}.txt"


def pin_gpu() -> None:
    """Put this process's GPU before the others of its host, before anything loads CUDA.

    The others stay visible: a GPU maps the memory of one that it sees, and sums of few bytes are written there.
    """
    local = _number(_LOCAL_RANK)
    if local is None:
        # mpiexec.gforker starts ranks of this host alone and does not number them by host.
        local = _number(_RANK) or 0
        os.environ.setdefault("MPI_LOCALRANKID", str(local))
    if os.environ.get(GPUS) == "":
        return
    gpus = [gpu for gpu in os.environ.get(GPUS, "").split(",") if gpu] or gpus_here()
    if gpus:
        os.environ.update(with_first(gpus, local))
        os.environ[OWN_GPU] = gpus[local % len(gpus)]


def _number(names: tuple[str, ...]) -> int | None:
    found = (os.environ.get(name, "") for name in names)
    return next((int(text) for text in found if text.isdigit()), None)


if __name__ == "__main__":
    main()
