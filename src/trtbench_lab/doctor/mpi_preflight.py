"""`--mpi`: everything that ranks need on this machine, tried out, each with its remedy."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from ..distributed.mpi import Launcher, local_launcher
from ..errors import WorldError
from ..ranks.shared_names import sweep_names
from .accelerators import check_mpi
from .libraries import check_nccl, check_shared_memory
from .mpi_library import check_mpi_library
from .needs import needed_for
from .packages import installed_version
from .probes import child_output, rows_of
from .report import Check, DoctorReport, DoctorRow, error, missing, ok, warning

_TRIAL_S = 60.0
# Rank 0 alone speaks, in one write: the launcher joins the ranks' outputs, and where PYTHONUNBUFFERED is set
# (Docker images set it) Python writes each piece of a line by itself, so that two ranks' lines run into each other.
_TRIAL = """
import os
from mpi4py import MPI
world = MPI.COMM_WORLD
line = f"size {world.Get_size()} sum {world.allreduce(world.Get_rank() + 1)}\\n"
if world.Get_rank() == 0:
    os.write(1, line.encode())
"""
_PEERS = """
import torch
count = torch.cuda.device_count()
pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
blocked = [f"{i}-{j}" for i, j in pairs if not torch.cuda.can_device_access_peer(i, j)]
print(count, " ".join(blocked))
"""
_EXTRA = "pip install 'trtbench-lab[mpi]'"


def examine_mpi() -> DoctorReport:
    """Look at what ranks of one model need; start two of them and let them add."""
    found = [row for name, check in CHECKS for row in rows_of(name, check, seconds=2 * _TRIAL_S)]
    rows = [dataclasses.replace(row, needed_for=row.needed_for or needed_for(row.component)) for row in found]
    usable = all(row.status in ("ok", "missing") or row.component != "MPI ranks" for row in rows)
    return DoctorReport(tuple(rows), ("torch",) if usable else ())


def check_ipyparallel() -> Iterator[DoctorRow]:
    """Look at what carries cells to ranks."""
    version = installed_version("ipyparallel")
    if version is None:
        yield missing("ipyparallel", "Needed for %%trt_mpi; mpirun works without it.", f"Install: {_EXTRA}")
    else:
        yield ok("ipyparallel", version, "Carries cells to ranks; it listens on loopback, with keys of its own.")


def check_ranks(launcher: Launcher | None = None) -> Iterator[DoctorRow]:
    """Start two ranks as a world of this machine starts them, and let them add their numbers."""
    if installed_version("mpi4py") is None:
        return
    try:
        launcher = launcher or local_launcher()
    except WorldError as fault:
        yield missing("MPI ranks", fault.what, fault.remedy)
        return
    sweep_names()
    began = time.monotonic()
    try:
        done = subprocess.run(
            [*launcher.start, "-n", "2", sys.executable, "-c", _TRIAL],
            check=False, capture_output=True, text=True, timeout=_TRIAL_S, stdin=subprocess.DEVNULL,
            env={**os.environ, **launcher.environment},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        remedy = "Look for a firewall on the loopback interface, or for a host name that does not resolve."
        yield error("MPI ranks", "no answer", f"Two ranks had not met after {_TRIAL_S:g} s.", remedy)
        return
    except OSError as fault:
        yield error("MPI ranks", "none", f"{launcher.command[0]} does not start: {fault.strerror}.", _EXTRA)
        return
    seconds = time.monotonic() - began
    lines = done.stdout.splitlines()
    if done.returncode == 0 and "size 2 sum 3" in lines:
        yield ok("MPI ranks", f"2 of 2 in {seconds:.1f} s", f"Started by {launcher.command[0]} ({launcher.kind}).")
    elif "size 1 sum 1" in lines:
        meaning = f"Each rank believes to be alone: mpi4py loads another MPI than that of {launcher.command[0]}."
        yield error("MPI ranks", "2 worlds of 1", meaning, f"Install both from one source: {_EXTRA}")
    else:
        said = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        meaning = f"Two ranks did not start: {' '.join(said[-3:])[:300] or f'status {done.returncode}'}"
        yield error("MPI ranks", "none", meaning, f"Mend what the message names, or take another MPI: {_EXTRA}")


def check_slots() -> Iterator[DoctorRow]:
    """Look at how many ranks have a core of their own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    meaning = "Ranks with a core of their own; more may be started, and waiting ranks then cost the others time."
    if cores >= 2:
        yield ok("MPI slots", str(cores), meaning)
    else:
        yield warning("MPI slots", str(cores), "Ranks take turns on one core.", "Give the container more: --cpus=2.")


def check_root(launcher: Launcher | None = None) -> Iterator[DoctorRow]:
    """Look at whether the launcher lets root start ranks."""
    if os.geteuid() != 0:
        yield ok("MPI as root", "another user", "Ranks start under it.")
        return
    try:
        launcher = launcher or local_launcher()
    except WorldError:
        return
    if launcher.kind != "Open MPI":
        yield ok("MPI as root", "root", f"{launcher.kind} asks for nothing.")
    elif os.environ.get("OMPI_ALLOW_RUN_AS_ROOT") == "1":
        yield ok("MPI as root", "root, allowed", "OMPI_ALLOW_RUN_AS_ROOT=1 is set.")
    else:
        remedy = "For mpirun of your own: export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
        yield warning("MPI as root", "root", "Open MPI refuses root; %%trt_mpi sets what allows it.", remedy)


def check_interfaces(launcher: Launcher | None = None) -> Iterator[DoctorRow]:
    """Look at the loopback interface, over which a world of this machine talks, and at who listens beyond it."""
    names = [name for _, name in socket.if_nameindex()]
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname(), 5):
            pass
    except OSError as fault:
        meaning = f"127.0.0.1 cannot be used ({fault.strerror}): controller and ranks meet there."
        yield error("interfaces", ", ".join(names) or "none", meaning, "Bring it up: ip link set lo up")
        return
    try:
        launcher = launcher or local_launcher()
    except WorldError:
        launcher = None
    if launcher is not None and not launcher.command[0].endswith("gforker"):
        meaning = (
            f"{launcher.command[0]} ({launcher.kind}) listens on every interface while ranks run; MPICH's "
            "mpiexec.gforker opens no port."
        )
        yield warning("interfaces", ", ".join(names), meaning, f"On a shared network take the MPI of: {_EXTRA}")
        return
    yield ok("interfaces", ", ".join(names), "A world of this machine talks over loopback and shared memory alone.")


def check_peers() -> Iterator[DoctorRow]:
    """Look at whether GPUs reach each other's memory."""
    text, _ = child_output(_PEERS)
    count, *blocked = text.split() or ["0"]
    if count in ("0", "1"):
        yield missing("GPU peer access", "Needs two GPUs.", found=f"{count} GPU(s)")
    elif blocked:
        meaning = f"These pairs go through the host's memory: {', '.join(blocked[:8])}. All-reduces are slow there."
        remedy = "Look at `nvidia-smi topo -m`; in a virtual machine switch ACS off, in a container share all GPUs."
        yield warning("GPU peer access", f"{count} GPUs, {len(blocked)} pairs without", meaning, remedy)
    else:
        yield ok("GPU peer access", f"all of {count} GPUs", "Ranks write into each other's memory.")


def check_slurm() -> Iterator[DoctorRow]:
    """Look at Slurm's commands."""
    absent = [name for name in ("sbatch", "srun", "squeue", "scancel") if shutil.which(name) is None]
    if absent:
        found = f"no {', '.join(absent)}"
        yield missing("Slurm", "Needed only for --launcher slurm.", "Start the notebook where they are.", found=found)
    else:
        yield ok("Slurm", "sbatch, srun, squeue, scancel", "Jobs can be started: --launcher slurm.")


CHECKS: tuple[tuple[str, Check], ...] = (
    ("MPI ranks", check_ranks),
    ("MPI", check_mpi),
    ("MPI library", check_mpi_library),
    ("MPI slots", check_slots),
    ("MPI as root", check_root),
    ("ipyparallel", check_ipyparallel),
    ("shared memory", check_shared_memory),
    ("interfaces", check_interfaces),
    ("NCCL", check_nccl),
    ("GPU peer access", check_peers),
    ("Slurm", check_slurm),
)
