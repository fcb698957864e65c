"""Where ranks run: this machine or a Slurm job, both through ipyparallel's launchers."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import psutil

from ..ranks.shared_names import sweep_names
from .keeper import JOB_FILE, cancel_job
from .mpi import local_launcher
from .shape import WorldShape
from .slurm import ENGINE, SlurmOptions, engine_arguments
from .slurm_launcher import slurm_ranks_launcher

_ASK_QUEUE_EVERY_S = 2.0
_ENDED_JOB = ("FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "COMPLETED", "DEADLINE")


class Place(Protocol):
    """Starts and ends what a world consists of."""

    def start_controller(self, folder: Path, environment: Mapping[str, str]) -> Any:
        """Start ipyparallel's controller; return its `Cluster`."""

    def start_ranks(self, cluster: Any, environment: Mapping[str, str]) -> None:
        """Start the ranks under it."""

    def why_ended(self) -> str | None:
        """Return why no further rank will come; None while they may."""

    def output(self) -> str:
        """Return what the launcher and the ranks wrote outside of cells."""

    def end_ranks(self) -> None:
        """Ask for the end of the ranks, beyond the processes of this machine."""

    def end(self, folder: Path) -> None:
        """Ask for the end of everything, beyond the processes of this machine."""


class LocalPlace:
    """See `Place`: `mpiexec` on this machine; controller and ranks meet on the loopback interface."""

    def __init__(self, shape: WorldShape) -> None:
        self._shape = shape
        self._launcher = local_launcher()
        self._engines: Any = None

    def start_controller(self, folder: Path, environment: Mapping[str, str]) -> Any:
        return _start_controller(self._shape, folder, environment, "mpi", "127.0.0.1")

    def start_ranks(self, cluster: Any, environment: Mapping[str, str]) -> None:
        cluster.engines.clear()
        sweep_names()
        cluster.start_engines_sync(
            n=self._shape.world_size,
            mpi_cmd=list(self._launcher.start),
            engine_cmd=list(ENGINE),
            engine_args=engine_arguments(nanny=False)[1:],  # ipyparallel's MPI launcher says --mpi itself
            environment={**self._launcher.environment, **environment},
        )
        self._engines = cluster.engine_set

    def why_ended(self) -> str | None:
        if self._engines is None or psutil.pid_exists(self._engines.pid):
            with contextlib.suppress(psutil.Error):
                if self._engines is None or psutil.Process(self._engines.pid).status() != psutil.STATUS_ZOMBIE:
                    return None
        return f"{self._launcher.command[0]} has ended before the ranks had started."

    def output(self) -> str:
        return _output_of(self._engines)

    def end_ranks(self) -> None:
        return

    def end(self, folder: Path) -> None:
        return


class SlurmPlace:
    """See `Place`: a job for the ranks; the controller stays on this host."""

    def __init__(self, shape: WorldShape) -> None:
        self._shape = shape
        self._options = shape.slurm or SlurmOptions()
        self._engines: Any = None
        self._asked, self._state = 0.0, ""
        self._folder = Path()

    def start_controller(self, folder: Path, environment: Mapping[str, str]) -> Any:
        self._folder = folder
        address = self._options.interface or "*"
        return _start_controller(self._shape, folder, environment, slurm_ranks_launcher(), address)

    def start_ranks(self, cluster: Any, environment: Mapping[str, str]) -> None:
        options = self._options
        output = self._folder / f"ranks-{time.monotonic_ns()}.log"
        cluster.engines.clear()
        cluster.start_engines_sync(
            n=self._shape.world_size,
            engine_cmd=list(options.engine_command),
            engine_args=engine_arguments(nanny=True),
            batch_template=options.batch_template(str(output)),
            batch_file_name=str(self._folder / "ranks.sbatch"),
            output_file=str(output),
            environment=dict(environment),
        )
        self._engines = cluster.engine_set
        (self._folder / JOB_FILE).write_text(self._engines.job_id)

    def why_ended(self) -> str | None:
        now = time.monotonic()
        if self._engines is None or now - self._asked < _ASK_QUEUE_EVERY_S:
            return None
        self._asked = now
        done = subprocess.run(
            ["squeue", "--noheader", "--jobs", self._engines.job_id, "--format", "%T"],
            check=False, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        state = done.stdout.strip()
        if done.returncode == 0 and state and state not in _ENDED_JOB:
            return None
        return f"Slurm's job {self._engines.job_id} has ended ({state or 'it has left the queue'})."

    def output(self) -> str:
        return _output_of(self._engines)

    def end_ranks(self) -> None:
        cancel_job(self._folder)

    def end(self, folder: Path) -> None:
        cancel_job(folder)


def _start_controller(
    shape: WorldShape, folder: Path, environment: Mapping[str, str], engines: str | type, address: str
) -> Any:
    import ipyparallel
    from traitlets.config import Config

    with_profile = {"profile": shape.profile, "load_profile": True} if shape.profile else {"load_profile": False}
    profile_dir = {} if shape.profile else {"profile_dir": str(folder / "profile")}
    cluster = ipyparallel.Cluster(
        config=Config(),
        **with_profile,
        **profile_dir,
        cluster_id=shape.id,
        n=shape.world_size,
        engines=engines,
        controller="local",
        controller_ip=address,
        controller_args=[
            "--IPController.use_threads=True",  # one process in place of six
            "--IPController.broadcast_scheduler_depth=0",
            # A rank is registered with its first heartbeat: at ipyparallel's 3 s that was half of a world's start.
            "--HeartMonitor.period=500",
            "--HeartMonitor.max_heartmonitor_misses=60",
        ],
        delay=0,
        shutdown_atexit=False,
        log_level=logging.ERROR,
        cluster_file="",
    )
    cluster.start_controller_sync(environment=dict(environment))
    return cluster


def _output_of(launcher: Any) -> str:
    """Return what was written so far: once the process has ended, ipyparallel keeps the text and removes the file."""
    if launcher is None:
        return ""
    try:
        return Path(launcher.output_file).read_text(errors="replace")
    except OSError:
        return str(launcher.get_output() or "")
