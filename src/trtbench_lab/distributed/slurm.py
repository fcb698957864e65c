"""Slurm: what a job asks for, and three texts made from it: batch script, ipyparallel profile, script for `srun`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from ..errors import WorldError

ENGINE = (sys.executable, "-m", "trtbench_lab.distributed.engine")
JOB_NAME = "trtbench-ranks"


@dataclass(frozen=True)
class SlurmOptions:
    """A job's request; None leaves it to the site.

    Attributes
    ----------
    nodes, ntasks_per_node
        Hosts, and ranks on each.
    gpus_per_node
        GPUs of each host; ranks take one each, by their number on the host.
    account, partition, time_limit
        As `sbatch` takes them.
    container_image, container_mounts
        Image and ``host:container`` pairs for the container plug-in of `srun`.
    mpi
        How `srun` starts MPI: ``"pmix"``, ``"pmi2"`` …
    interface
        Address of this host at which the nodes reach it; None listens on all, with ipyparallel's keys.
    shared_dir
        Folder that this host and the nodes see; None for one in the home directory.
    python
        Python on the nodes, or in the container; None for this one's path.
    """

    nodes: int = 1
    ntasks_per_node: int = 1
    gpus_per_node: int | None = None
    account: str | None = None
    partition: str | None = None
    time_limit: str | None = None
    container_image: str | None = None
    container_mounts: str | None = None
    mpi: str | None = None
    interface: str | None = None
    shared_dir: str | None = None
    python: str | None = None

    @property
    def num_ranks(self) -> int:
        return self.nodes * self.ntasks_per_node

    @property
    def engine_command(self) -> tuple[str, ...]:
        return (self.python or ENGINE[0], *ENGINE[1:])

    def shared_folder(self) -> Path:
        """Return the folder for files of the world, made where it is missing.

        Raises
        ------
        WorldError
            When it cannot be made.
        """
        folder = Path(self.shared_dir).expanduser() if self.shared_dir else Path.home() / ".trtbench" / "worlds"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise WorldError(
                f"{folder} cannot be made: {error.strerror}.", where="--shared_dir", remedy="Name another folder."
            ) from None
        return folder.resolve()

    def request_lines(self, *, output: str | None = None) -> list[str]:
        """Return the ``#SBATCH`` lines."""
        asked = {
            "job-name": JOB_NAME,
            "nodes": self.nodes,
            "ntasks-per-node": self.ntasks_per_node,
            "gpus-per-node": self.gpus_per_node,
            "account": self.account,
            "partition": self.partition,
            "time": self.time_limit,
            "output": output,
            "export": "ALL",
        }
        return [f"#SBATCH --{name}={_one_word(name, value)}" for name, value in asked.items() if value is not None]

    def srun_words(self) -> list[str]:
        """Return `srun` with what it needs of its own."""
        words = ["srun", "--kill-on-bad-exit=1"]
        if self.mpi is not None:
            words.append(f"--mpi={self.mpi}")
        if self.container_image is not None:
            words.append(f"--container-image={self.container_image}")
        if self.container_mounts is not None:
            words.append(f"--container-mounts={self.container_mounts}")
        return words

    def batch_template(self, output: str | None = None) -> str:
        """Return the batch script as ipyparallel takes it: it puts the program in the place of the one field."""
        lines = ["#!/bin/sh", *self.request_lines(output=output), shlex.join(self.srun_words())]
        return "\n".join(line.replace("{", "{{").replace("}", "}}") for line in lines) + " {program_and_args}\n"

    def batch_script(self, output: str | None = None) -> str:
        """Return the script that `sbatch` gets."""
        program = shlex.join([*self.engine_command, *engine_arguments(nanny=True)])
        return self.batch_template(output).format(program_and_args=program)

    def profile_text(self) -> str:
        """Return an ``ipcluster_config.py`` with which ``ipcluster start`` starts the same ranks."""
        program = [*self.engine_command]
        return "\n".join(
            [
                "c = get_config()",
                'c.Cluster.engine_launcher_class = "slurm"',
                f"c.Cluster.n = {self.num_ranks}",
                f"c.Cluster.controller_ip = {self.interface or '*'!r}",
                f"c.SlurmEngineSetLauncher.engine_cmd = {program!r}",
                f"c.SlurmEngineSetLauncher.engine_args = {engine_arguments(nanny=True)!r}",
                f'c.SlurmEngineSetLauncher.batch_template = """{self.batch_template()}"""',
                "",
            ]
        )

    def srun_script(self, command: str) -> str:
        """Return a batch script that runs a shell command's words on every rank, without a notebook.

        Raises
        ------
        WorldError
            When a quotation mark is left open.
        """
        try:
            words = shlex.split(command)
        except ValueError:
            raise WorldError("A quotation mark is left open.", where="--command", remedy="Close it.") from None
        return "\n".join(["#!/bin/sh", *self.request_lines(), shlex.join([*self.srun_words(), *words]), ""])


def engine_arguments(*, nanny: bool) -> list[str]:
    """Return what each engine is told.

    A nanny is a second process beside each engine; it passes signals on and reports the engine's end, which this
    machine's own ranks need nobody for.
    """
    return [
        "--mpi",
        f"--IPEngine.enable_nanny={nanny}",
        # Heartbeats come twice a second; an engine may miss them for two and a half minutes, as ipyparallel has it.
        "--IPEngine.max_heartbeat_misses=300",
    ]


def _one_word(name: str, value: object) -> str:
    text = str(value)
    if not text or any(letter.isspace() for letter in text):
        raise WorldError(
            f"{text!r} cannot stand in a line of a batch script.", where=f"--{name}", remedy="Give it without spaces."
        )
    return text
