"""A world: the MPI ranks that belong to this process, the life that they lead, and the cells that they run."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from ..errors import WorldError, require
from ..progress import ProgressSink, phase
from .cell import GRACE_S, PendingCell, ranks_from
from .faults import ranks_in_words
from .processes import WorldProcesses
from .results import RankResults
from .roster import Roster
from .shape import WorldShape
from .slurm import SlurmOptions
from .status import RankStatus
from .view import CellView, NoView

_current: World | None = None


def current_world() -> World | None:
    """Return the world of this notebook: the one that was started last and has not been stopped."""
    return _current


class World:
    """MPI ranks that run cells.

    Parameters
    ----------
    ranks
        How many; None for as many as there are GPUs, at least two.
    launcher
        ``"local"``: mpiexec on this machine, nothing listens beyond loopback. ``"slurm"``: a job.
    profile
        IPython profile whose ``ipcluster_config.py`` is read, for sites that have one.
    tp_size, pp_size
        The `mapping` that cells find; `tp_size` None for all ranks of a pipeline stage.
    slurm
        What the job asks for.
    start_timeout_s
        Seconds that the ranks may take to start; None for two minutes here, and no limit for a job in a queue.
    """

    def __init__(
        self,
        ranks: int | None = None,
        *,
        launcher: str = "local",
        profile: str | None = None,
        tp_size: int | None = None,
        pp_size: int = 1,
        slurm: SlurmOptions | None = None,
        start_timeout_s: float | None = None,
    ) -> None:
        shape = WorldShape.of(
            ranks,
            launcher=launcher,
            profile=profile,
            tp_size=tp_size,
            pp_size=pp_size,
            slurm=slurm,
            start_timeout_s=start_timeout_s,
        )
        self.id, self.launcher, self.profile, self.slurm = shape.id, shape.launcher, shape.profile, shape.slurm
        self.world_size, self.tp_size, self.pp_size = shape.world_size, shape.tp_size, shape.pp_size
        self.roster = Roster(shape.world_size)
        self._processes = WorldProcesses(shape, self.roster)
        self._cells = 0
        self._pending: PendingCell | None = None
        self._restart: threading.Thread | None = None
        self._restart_fault: BaseException | None = None
        self._owner = os.getpid()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        where = "a Slurm job" if self.launcher == "slurm" else "this machine"
        return f"World({self.world_size} ranks on {where}, {self.state})"

    # ---- start and end --------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """``"stopped"``, ``"starting"``, ``"running"`` or ``"down"`` (a rank died)."""
        if not self._processes.have_started:
            return "stopped"
        if self._restart is not None and self._restart.is_alive():
            return "starting"
        return "down" if self.roster.down else "running" if self.roster.is_complete else "starting"

    def start(self, progress: ProgressSink | None = None) -> None:
        """Start the ranks and wait until all have answered.

        Raises
        ------
        WorldError
            When they do not start, with the launcher's own reason.
        MissingPackageError
            Without ipyparallel or mpi4py.
        """
        global _current
        if self._processes.have_started:
            raise WorldError("These ranks run already.", where="%trt_mpi start", remedy="Restart or stop them first.")
        require("ipyparallel", extra="mpi", purpose="run cells on several ranks")
        require("mpi4py", extra="mpi", purpose="run cells on several ranks")
        self._processes.prepare()
        atexit.register(self.stop)
        try:
            with phase(f"start {self.world_size} ranks", progress, total=self.world_size, unit="rank") as counter:
                self._processes.start(counter.advance)
        except BaseException:
            self.stop()
            raise
        _current = self

    def restart(self, progress: ProgressSink | None = None) -> None:
        """End the ranks, whatever they do, and start as many again, empty."""
        if not self._processes.have_started:
            self.start(progress)
            return
        self._await_restart()
        with phase(f"restart {self.world_size} ranks", progress, total=self.world_size, unit="rank") as counter:
            self._processes.end_ranks()
            self._processes.start_ranks(counter.advance)

    def stop(self) -> None:
        """End every process of this world; a second time does nothing."""
        global _current
        if os.getpid() != self._owner:
            return  # a fork of this process: the ranks are not its own
        self._processes.end()
        atexit.unregister(self.stop)
        if _current is self:
            _current = None

    def replace_ranks(self) -> None:
        """End the ranks at once and start new ones behind the notebook's back; the next cell waits for them."""
        self._processes.end_ranks()
        self.roster.clear()
        self._restart_fault = None

        def start() -> None:
            try:
                self._processes.start_ranks()
            except BaseException as fault:
                self._restart_fault = fault

        self._restart = threading.Thread(target=start, name="trt_mpi restart", daemon=True)
        self._restart.start()

    def _await_restart(self) -> None:
        if self._restart is not None:
            while self._restart.is_alive():
                self._restart.join(0.1)
            self._restart = None
            fault, self._restart_fault = self._restart_fault, None
            if fault is not None:
                self.stop()
                raise fault

    # ---- cells ------------------------------------------------------------------------------------------------------

    def run(
        self,
        text: str,
        *,
        ranks: Sequence[int] | None = None,
        name: str | None = None,
        wants_value: bool = True,
        timeout_s: float | None = None,
        grace_s: float = GRACE_S,
        view: CellView | None = None,
    ) -> RankResults:
        """Run a cell and return what came back; Ctrl-C stops it.

        Parameters
        ----------
        text
            Python as in a notebook, magics included; `rank`, `world_size`, `mapping`, `comm` and `progress` are there.
        ranks
            Which ranks; None for all.
        name
            Variable to bring back where the cell sets it; the value of its last expression otherwise.
        wants_value
            Whether any value is brought back.
        timeout_s, grace_s
            Seconds for the cell; seconds for the others once one rank has raised.
        view
            What shows it; None shows nothing.

        Raises
        ------
        RankError
            When it failed on a rank: `failures` has each distinct error once, `results` what came back.
        DeadRankError, StuckRanksError
            When a rank died; when the cell ran out of its time.
        """
        cell = self._begin(text, ranks, name, wants_value, timeout_s, grace_s, view)
        return cell.follow()

    def run_in_background(
        self,
        text: str,
        *,
        ranks: Sequence[int] | None = None,
        name: str | None = None,
        wants_value: bool = True,
        timeout_s: float | None = None,
        grace_s: float = GRACE_S,
        view: CellView | None = None,
    ) -> PendingCell:
        """Run a cell as `run` does, and return at once."""
        cell = self._begin(text, ranks, name, wants_value, timeout_s, grace_s, view)
        cell.follow_in_background()
        return cell

    def _begin(
        self,
        text: str,
        ranks: Sequence[int] | None,
        name: str | None,
        wants_value: bool,
        timeout_s: float | None,
        grace_s: float,
        view: CellView | None,
    ) -> PendingCell:
        chosen = ranks_from(ranks, self.world_size)
        if self._pending is not None and not self._pending.done:
            raise WorldError(
                f"A cell still runs on {ranks_in_words(self._pending.running)}.",
                where="%%trt_mpi",
                remedy="Wait for it (.wait()), interrupt it (.interrupt()), or: %trt_mpi restart",
            )
        self._await_restart()
        if not self._processes.have_started:
            raise WorldError("There are no ranks.", where="%%trt_mpi", remedy="Start them with: %trt_mpi start")
        if not self.roster.down and (dead := self.roster.dead()):
            self.give_up(dead)
        if self.roster.down:
            self.restart()
        self._pending = PendingCell(
            self,
            text,
            chosen,
            name=name,
            wants_value=wants_value,
            timeout_s=timeout_s,
            grace_s=grace_s,
            view=view or NoView(),
        )
        return self._pending

    def ask(self, rank: int, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Send a call to a rank; return ipyparallel's future of it."""
        return self._processes.client[self.roster.engine_of(rank)].apply_async(function, *arguments, **keywords)

    def metadata_of(self, asked: Any) -> Mapping[str, Any]:
        """Return what has arrived of a call: output, displays, data."""
        # Not the client's own table, which forgets a call with its last output: a quick one would have said nothing.
        found: Mapping[str, Any] = asked.metadata
        return found

    # ---- the ranks --------------------------------------------------------------------------------------------------

    def status(self) -> tuple[RankStatus, ...]:
        """Return what is known of each rank, in order; no rank is asked, so it costs microseconds."""
        return self.roster.status()

    def give_up(self, dead: Sequence[int]) -> None:
        """Note that ranks have died and end the others, which wait for them."""
        self.roster.mark_dead(dead, ranks_in_words(dead))
        self._processes.end_ranks()

    def last_words(self, dead: Sequence[int]) -> str:
        """Return what the launcher said last."""
        return self._processes.output()[-4000:]

    def interrupt(self, ranks: Sequence[int]) -> None:
        """Send Ctrl-C's signal to ranks."""
        self.roster.interrupt(ranks)

    def where_they_stand(self, ranks: Sequence[int], cell: str, code_name: str) -> list[str]:
        """Return for each rank where its Python stands, also inside a blocked call of MPI."""
        return self.roster.where_they_stand(ranks, self._processes.folder or Path(), cell, code_name)

    def next_code_name(self) -> str:
        self._cells += 1
        return f"<trt_mpi {self._cells}>"

    def forget(self, asked: Any) -> None:
        """Let ipyparallel's client drop a call's result, which it would keep for ever."""
        with contextlib.suppress(Exception):
            self._processes.client.purge_local_results(asked)
