"""Ranks of a notebook: their start and end, and how one cell runs on them."""

from __future__ import annotations

from ..coerce import Unfit
from ..options import option
from ..spec import Spec

ACTIONS = ("start", "status", "restart", "stop")
LAUNCHERS = ("local", "slurm")


def ranks_from_text(text: str) -> list[int]:
    """Return the ranks of ``"0,2"`` or ``"0-3,6"``."""
    ranks: list[int] = []
    for part in text.replace(" ", ",").split(","):
        first, dash, last = part.strip().partition("-")
        if not first and not dash:
            continue
        try:
            low = int(first)
            high = int(last) if dash else low
        except ValueError:
            raise Unfit(f"must be ranks such as '0,2' or '0-3', not {text!r}") from None
        if high - low > 65535:
            raise Unfit(f"names {high - low + 1} ranks")
        ranks += range(low, high + 1)
    return ranks


class MpiSpec(Spec):
    """Run cells on several ranks: start, show, restart or stop them."""

    action: str = option(
        default="status", help="What is done with the ranks.", choices=ACTIONS, positional=0, group="ranks"
    )
    num_ranks: int | None = option(
        default=None,
        help="How many ranks are started; none means tp_size × pp_size where given, else one a GPU, at least two.",
        flag="-n",
        flags=("-np", "--np"),
        minimum=1,
        maximum=65536,
        group="ranks",
    )
    tp_size: int | None = option(
        default=None,
        help="Ranks that share each layer, in the mapping that cells find; none means all of a pipeline stage.",
        minimum=1,
        flags=("--tp", "-tp", "--tensor_parallel_size"),
        group="ranks",
    )
    pp_size: int = option(
        default=1,
        help="Groups of layers on different ranks, in the mapping that cells find.",
        minimum=1,
        flags=("--pp", "-pp"),
        group="ranks",
    )
    launcher: str = option(
        default="local",
        help="Where ranks start: local is this machine, by mpiexec; slurm is a job.",
        choices=LAUNCHERS,
        group="ranks",
    )
    profile: str | None = option(
        default=None,
        help="IPython profile whose ipcluster_config.py is read too, for sites that have one.",
        metavar="NAME",
        group="ranks",
    )
    ranks: tuple[int, ...] = option(
        default=(),
        help="Only these ranks run the cell, for example 0,2 or 0-3; none means all.",
        parse=ranks_from_text,
        render=lambda ranks: ",".join(str(rank) for rank in ranks),
        minimum=0,
        metavar="0,2",
        group="cell",
    )
    timeout: float | None = option(
        default=None,
        help="Seconds after which the cell is stopped; where each rank stood is shown.",
        minimum=0.1,
        unit="s",
        group="cell",
    )
    grace: float = option(
        default=2.0,
        help="Seconds that the other ranks may go on once one has raised.",
        minimum=0,
        unit="s",
        group="cell",
        effect="Then they are interrupted; those that wait inside MPI are started again, empty.",
    )
    rank0_only: bool = option(
        default=False, help="Show what rank 0 prints and no other; errors of all are shown.", group="cell"
    )
    noblock: bool = option(
        default=False,
        help="Go on to the next cell at once; the value is a pending cell to wait for or interrupt.",
        flags=("--no-block",),
        group="cell",
    )
    nodes: int = option(default=1, help="Hosts of the job.", minimum=1, flags=("-N",), group="slurm")
    ntasks_per_node: int = option(default=1, help="Ranks on each host.", minimum=1, group="slurm")
    gpus_per_node: int | None = option(
        default=None,
        help="GPUs of each host; ranks take one each. None leaves it to the site.",
        minimum=0,
        group="slurm",
    )
    account: str | None = option(default=None, help="Account that the job is charged to.", flags=("-A",), group="slurm")
    partition: str | None = option(default=None, help="Queue of the job.", group="slurm")
    time: str | None = option(
        default=None,
        help="Longest time of the job, as sbatch takes it.",
        flags=("-t",),
        metavar="HH:MM:SS",
        group="slurm",
    )
    container_image: str | None = option(
        default=None, help="Container image of the ranks, for srun's container plug-in.", metavar="IMAGE", group="slurm"
    )
    container_mounts: str | None = option(
        default=None, help="What of the host the container sees.", metavar="HOST:CONTAINER,…", group="slurm"
    )
    python: str | None = option(
        default=None, help="Python on the nodes or in the container; none means this one's path.", metavar="PATH",
        group="slurm",
    )  # fmt: skip
    srun_mpi: str | None = option(
        default=None,
        help="How srun starts MPI (pmix, pmi2); none means the site's way.",
        flags=("--mpi",),
        group="slurm",
    )
    interface: str | None = option(
        default=None,
        help="Address of this host at which the nodes reach it; none listens on all, guarded by ipyparallel's keys.",
        metavar="ADDRESS",
        group="slurm",
    )
    shared_dir: str | None = option(
        default=None, help="Folder that this host and the nodes see; none means one in the home folder.", metavar="DIR",
        group="slurm",
    )  # fmt: skip
    dry_run: bool = option(
        default=False, help="Show the profile and the batch script, and start nothing.", group="slurm"
    )
    command: str = option(
        default="trtbench run --engine_dir ENGINE",
        help="With --dry_run: the command of the script that runs it on every rank by srun, without a notebook.",
        metavar="WORDS",
        group="slurm",
    )
