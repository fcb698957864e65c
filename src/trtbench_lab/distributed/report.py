"""What `%trt_mpi` shows: the ranks of a world, or what a job would be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..results.render import Table, html_document, plain_document
from .slurm import SlurmOptions
from .status import RankStatus


class _Shown:
    """Prints and draws itself from a title, a line below it and tables."""

    title = ""
    byline = ""

    def tables(self) -> list[Table]:
        return []

    def __repr__(self) -> str:
        return plain_document(self.title, self.byline, self.tables())

    def _repr_html_(self) -> str:
        return html_document(self.title, self.byline, self.tables())


@dataclass(frozen=True, repr=False)
class WorldReport(_Shown):
    """A world as it was when it was asked.

    Attributes
    ----------
    state
        ``"running"``, ``"starting"``, ``"down"`` (a rank died) or ``"stopped"``.
    launcher
        ``"local"`` or ``"slurm"``.
    ranks
        One entry a rank; empty where no world runs.
    """

    state: str
    launcher: str
    ranks: tuple[RankStatus, ...]

    @property
    def title(self) -> str:  # type: ignore[override]
        return f"{len(self.ranks)} ranks, {self.state}" if self.ranks else "No ranks run"

    @property
    def byline(self) -> str:  # type: ignore[override]
        if not self.ranks:
            return "%trt_mpi start -n 2 starts some, and so does a first %%trt_mpi cell."
        if self.state == "down":
            return "%trt_mpi restart starts them again; so does the next %%trt_mpi cell."
        return "by mpiexec on this machine" if self.launcher == "local" else "in a Slurm job"

    def tables(self) -> list[Table]:
        columns = ("rank", "engine", "host", "GPU", "pid", "state", "for (s)", "last line")
        rows = [
            (
                one.rank,
                one.engine_id if one.engine_id >= 0 else None,
                one.host or None,
                one.gpu,
                str(one.pid) if one.pid else None,
                one.state,
                round(one.since_s, 1),
                one.last_line,
            )
            for one in self.ranks
        ]
        return [Table(columns, rows)] if rows else []

    def to_dict(self) -> dict[str, Any]:
        return {"state": self.state, "launcher": self.launcher, "ranks": [vars(one) for one in self.ranks]}


@dataclass(frozen=True, repr=False)
class JobPlan:
    """What `--dry-run` shows: nothing has been started.

    Attributes
    ----------
    profile
        ``ipcluster_config.py`` of an IPython profile with which ``ipcluster start`` starts the same ranks.
    batch_script
        What `sbatch` would get.
    srun_script
        The same request for a command without a notebook.
    """

    profile: str
    batch_script: str
    srun_script: str

    @classmethod
    def of(cls, options: SlurmOptions, command: str) -> JobPlan:
        return cls(options.profile_text(), options.batch_script(), options.srun_script(command))

    def __repr__(self) -> str:
        parts = (
            ("profile: ipcluster_config.py", self.profile),
            ("batch script of the ranks: sbatch", self.batch_script),
            ("the same for a script, without a notebook: sbatch", self.srun_script),
        )
        return "\n".join(f"# ---- {title} ----\n{text}" for title, text in parts).rstrip()

    def to_dict(self) -> dict[str, str]:
        return dict(vars(self))
