"""A world: the MPI ranks that belong to this process, their start, their state and their end."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from ..errors import SpecError, WorldError, require
from ..progress import ProgressSink, phase
from ..ranks.gpus import gpus_here
from .cell import GRACE_S, PendingCell, ranks_from
from .faults import ranks_in_words
from .keeper import end_processes
from .names import FOLDER, FOLDER_PREFIX, RANKS, WORLD
from .places import LocalPlace, Place, SlurmPlace
from .rank import RankInfo, prepare
from .results import RankResults
from .roster import Roster
from .slurm import SlurmOptions
from .status import RankStatus
from .view import CellView, NoView

_SILENT_S = 120.0

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
        if launcher not in ("local", "slurm"):
            raise SpecError(f"There is no launcher {launcher!r}.", where="launcher", remedy="Choose local or slurm.")
        if launcher == "slurm":
            slurm = slurm or SlurmOptions()
            ranks = ranks or (tp_size * pp_size if tp_size else None) or slurm.num_ranks
        self.world_size = ranks or (tp_size * pp_size if tp_size else max(2, len(gpus_here()), pp_size))
        self.tp_size = tp_size or max(1, self.world_size // pp_size)
        self.pp_size = pp_size
        if self.tp_size * pp_size != self.world_size:
            raise SpecError(
                f"{self.world_size} ranks are not tp_size {self.tp_size} × pp_size {pp_size}.",
                where="-n",
                remedy=f"Start {self.tp_size * pp_size} ranks, or change --tp_size and --pp_size.",
            )
        self.launcher, self.profile, self.slurm = launcher, profile, slurm
        self.id = uuid.uuid4().hex[:12]
        self._start_timeout_s = start_timeout_s if start_timeout_s or launcher == "slurm" else _SILENT_S
        self._folder: Path | None = None
        self._place: Place | None = None
        self._cluster: Any = None
        self._client: Any = None
        self.roster = Roster(self.world_size)
        self._known_engines: set[str] = set()
        self._starts = 0
        self._cells = 0
        self._suspicious = False
        self._pending: PendingCell | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._restart: threading.Thread | None = None
        self._restart_fault: BaseException | None = None
        self._lock = threading.RLock()
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
        if self._cluster is None:
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
        if self._cluster is not None:
            raise WorldError("These ranks run already.", where="%trt_mpi start", remedy="Restart or stop them first.")
        require("ipyparallel", extra="mpi", purpose="run cells on several ranks")
        require("mpi4py", extra="mpi", purpose="run cells on several ranks")
        place = SlurmPlace(self) if self.launcher == "slurm" else LocalPlace(self)
        self._place = place
        self._folder = self._make_folder()
        atexit.register(self.stop)
        try:
            with phase(f"start {self.world_size} ranks", progress, total=self.world_size, unit="rank") as counter:
                self._start_keeper()
                self._cluster = place.start_controller(self._folder)
                self._start_ranks(counter.advance)
        except BaseException:
            self.stop()
            raise
        _current = self

    def restart(self, progress: ProgressSink | None = None) -> None:
        """End the ranks, whatever they do, and start as many again, empty."""
        if self._cluster is None:
            self.start(progress)
            return
        self._await_restart()
        with phase(f"restart {self.world_size} ranks", progress, total=self.world_size, unit="rank") as counter:
            self._end_ranks()
            self._start_ranks(counter.advance)

    def stop(self) -> None:
        """End every process of this world; a second time does nothing."""
        global _current
        if os.getpid() != self._owner:
            return  # a fork of this process: the ranks are not its own
        with self._lock:
            place, self._cluster = self._place, None
            self.roster.clear()
            self.roster.mark_all("stopped")
            if self._client is not None:
                with contextlib.suppress(Exception):
                    self._client.close(linger=0)
                self._client = self.roster.client = None
            if place is not None and self._folder is not None:
                place.end(self._folder)
            end_processes(self.id)
            if self._keeper is not None:
                self._keeper.wait(5)  # it belonged to the world, so it is gone
                self._keeper = None
            if self._folder is not None and self._folder.name.startswith(FOLDER_PREFIX):
                shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        atexit.unregister(self.stop)
        if _current is self:
            _current = None

    def _started_place(self) -> Place:
        if self._place is None:
            raise WorldError("There are no ranks.", where="%trt_mpi", remedy="Start them with: %trt_mpi start")
        return self._place

    def _make_folder(self) -> Path:
        # Slurm's ranks read and write there too, so it must be where all hosts see it.
        base = self.slurm.shared_folder() if self.slurm is not None else None
        return Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=base))

    def environment(self) -> dict[str, str]:
        """Return what every process of this world has in its environment."""
        package = str(Path(__file__).resolve().parents[2])
        paths = [package, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        return {WORLD: self.id, FOLDER: str(self._folder), "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}

    def ranks_environment(self) -> dict[str, str]:
        """Return what a rank has beside: which start it belongs to."""
        return {**self.environment(), RANKS: str(self._starts)}

    def _start_keeper(self) -> None:
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", "trtbench_lab.distributed.keeper", self.id, str(os.getpid()), str(self._folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **self.environment()},
            start_new_session=True,
        )

    def _start_ranks(self, advance: Callable[[int, str | None], None] | None = None) -> None:
        """Start the ranks under the running controller and learn who they are."""
        place = self._started_place()
        self._starts += 1
        self.roster.clear()
        self.roster.down, self._suspicious = "", False
        self.roster.mark_all("starting")
        place.start_ranks(self._cluster, self.world_size)
        client = self._connect()
        until = None if self._start_timeout_s is None else time.monotonic() + self._start_timeout_s
        seen = 0
        while len(engines := self._new_engines()) < self.world_size:
            self._check_start(until, len(engines))
            if advance is not None and len(engines) > seen:
                advance(len(engines) - seen, None)
                seen = len(engines)
            time.sleep(0.02)
        asked = {engine: client[engine].apply_async(prepare, self.tp_size, self.pp_size) for engine in engines}
        for call in asked.values():
            while not call.wait(0.1):
                self._check_start(until, len(engines))
        self._take_infos({engine: call.get(0) for engine, call in asked.items()})
        self._known_engines.update(self._uuid(engine) for engine in engines)
        if advance is not None:
            advance(self.world_size - seen, None)

    def _new_engines(self) -> list[int]:
        """Return the engines of the present start; numbers of dead ones are given out again, their names are not."""
        return sorted(engine for engine in self._client.ids if self._uuid(engine) not in self._known_engines)

    def _uuid(self, engine: int) -> str:
        return str(self._client._engines.get(engine))

    def _connect(self) -> Any:
        if self._client is None:
            with contextlib.redirect_stdout(sys.stderr):
                self._client = self.roster.client = self._cluster.connect_client_sync(timeout=30)
        return self._client

    def _check_start(self, until: float | None, started: int) -> None:
        place = self._started_place()
        reason = place.why_ended()
        if reason is None and (until is None or time.monotonic() < until):
            return
        output = place.output().strip()
        lines = [line for line in output.splitlines() if line.strip()]
        said = "\n".join(f"    {line}" for line in lines[-12:])
        what = reason or f"{started} of {self.world_size} ranks had started after {self._start_timeout_s:g} s."
        raise WorldError(
            f"{what}{' It said:' if said else ''}\n{said}".rstrip(),
            where="%trt_mpi start",
            remedy="Look at what is missing with: %trt_doctor --mpi",
            details=output or None,
        )

    def _take_infos(self, by_engine: Mapping[int, RankInfo]) -> None:
        sizes = {info.world_size for info in by_engine.values()}
        if sizes != {self.world_size}:
            raise WorldError(
                f"{self.world_size} ranks were started, and each believes to be one of {min(sizes)}: mpi4py loads "
                "another MPI than the launcher's.",
                where="%trt_mpi start",
                remedy="%trt_doctor --mpi shows both and what to install.",
            )
        self.roster.fill(by_engine)

    def _end_ranks(self) -> None:
        self._started_place().end_ranks()
        end_processes(self.id, str(self._starts))

    def replace_ranks(self) -> None:
        """End the ranks at once and start new ones behind the notebook's back; the next cell waits for them."""
        self._end_ranks()
        self.roster.clear()
        self._restart_fault = None

        def start() -> None:
            try:
                self._start_ranks()
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
        if self._cluster is None:
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
        return self._client[self.roster.engine_of(rank)].apply_async(function, *arguments, **keywords)

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
        self._end_ranks()

    def last_words(self, dead: Sequence[int]) -> str:
        """Return what the launcher said last."""
        return self._place.output()[-4000:] if self._place is not None else ""

    def interrupt(self, ranks: Sequence[int]) -> None:
        """Send Ctrl-C's signal to ranks."""
        self.roster.interrupt(ranks)

    def where_they_stand(self, ranks: Sequence[int], cell: str, code_name: str) -> list[str]:
        """Return for each rank where its Python stands, also inside a blocked call of MPI."""
        return self.roster.where_they_stand(ranks, self._folder or Path(), cell, code_name)

    def suspect(self) -> None:
        """Note that a failed cell may have left half a collective: the next one gets new communicators."""
        self._suspicious = True

    def take_suspicion(self, ranks: Sequence[int]) -> bool:
        """Return whether a cell on these ranks must renew communicators, which all ranks do together."""
        if not self._suspicious or len(ranks) < self.world_size:
            return False
        self._suspicious = False
        return True

    def next_code_name(self) -> str:
        self._cells += 1
        return f"<trt_mpi {self._cells}>"

    def forget(self, asked: Any) -> None:
        """Let ipyparallel's client drop a call's result, which it would keep for ever."""
        with contextlib.suppress(Exception):
            self._client.purge_local_results(asked)
