"""ipyparallel's Slurm launcher, with what `sbatch` says when it refuses."""

from __future__ import annotations

import functools
import subprocess
from typing import Any

from ..errors import WorldError


@functools.cache
def slurm_ranks_launcher() -> type:
    """Return the class that submits and cancels the job of a world's ranks; ipyparallel is loaded with it."""
    from ipyparallel.cluster.launcher import SlurmEngineSetLauncher

    class SlurmRanksLauncher(SlurmEngineSetLauncher):  # type: ignore[misc]
        def _run_command(self, command: list[str], **options: Any) -> str:
            return output_of(command, **options)

    return SlurmRanksLauncher


def output_of(command: list[str], **options: Any) -> str:
    """Return what a command of Slurm prints.

    Raises
    ------
    WorldError
        When it is not there, or refuses.
    """
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)
    except FileNotFoundError:
        raise WorldError(
            f"There is no {command[0]} on this machine.",
            where="--launcher slurm",
            remedy="Start the notebook on a machine that submits jobs.",
        ) from None
    if done.returncode != 0:
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise WorldError(
            f"{command[0]} refused the job: {' '.join(said[-3:]) or f'status {done.returncode}'}",
            where="--launcher slurm",
            remedy="--dry-run shows the script that it got.",
        )
    return done.stdout
