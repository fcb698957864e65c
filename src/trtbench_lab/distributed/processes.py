"""The processes of a world: its keeper, ipyparallel's controller and the ranks, from their start to their end."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import WorldError
from .keeper import end_processes
from .names import FOLDER, FOLDER_PREFIX, RANKS, WORLD
from .places import LocalPlace, Place, SlurmPlace
from .rank import RankInfo, prepare
from .roster import Roster
from .shape import WorldShape

Advance = Callable[[int, str | None], None]


class WorldProcesses:
    """Starts and ends what a world consists of; the roster is told who answered.

    Parameters
    ----------
    shape
        What is to be started.
    roster
        Where the ranks are known.
    """

    def __init__(self, shape: WorldShape, roster: Roster) -> None:
        self._shape, self._roster = shape, roster
        self.client: Any = None
        """ipyparallel's client; None before the first ranks have been waited for."""
        self.folder: Path | None = None
        """What the processes share; it lives as long as they do."""
        self._place: Place | None = None
        self._cluster: Any = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._known_engines: set[str] = set()
        self._starts = 0
        self._ending = threading.RLock()

    @property
    def have_started(self) -> bool:
        """Whether there is a controller that ranks can be started under."""
        return self._cluster is not None

    # ---- start ------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Find the launcher and make the folder; nothing runs yet.

        Raises
        ------
        WorldError
            When there is no launcher, or no folder.
        """
        self._place = SlurmPlace(self._shape) if self._shape.launcher == "slurm" else LocalPlace(self._shape)
        # Slurm's ranks read and write there too, so it must be where all hosts see it.
        base = self._shape.slurm.shared_folder() if self._shape.slurm is not None else None
        self.folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=base))

    def start(self, advance: Advance | None = None) -> None:
        """Start everything and wait until all ranks have answered; `advance` is told of each that comes.

        Raises
        ------
        WorldError
            When they do not start, with the launcher's own reason.
        """
        self._start_keeper()
        self._cluster = self._prepared_place().start_controller(self.folder or Path(), self._environment())
        self.start_ranks(advance)

    def start_ranks(self, advance: Advance | None = None) -> None:
        """Start the ranks under the running controller and learn who they are."""
        place = self._prepared_place()
        self._starts += 1
        self._roster.expect_others()
        place.start_ranks(self._cluster, {**self._environment(), RANKS: str(self._starts)})
        client = self._connected_client()
        limit_s = self._shape.start_timeout_s
        until = None if limit_s is None else time.monotonic() + limit_s
        seen = 0
        while len(engines := self._new_engines()) < self._shape.world_size:
            self._check_start(until, len(engines))
            if advance is not None and len(engines) > seen:
                advance(len(engines) - seen, None)
                seen = len(engines)
            time.sleep(0.02)
        sizes = self._shape.tp_size, self._shape.pp_size
        asked = {engine: client[engine].apply_async(prepare, *sizes) for engine in engines}
        for call in asked.values():
            while not call.wait(0.1):
                self._check_start(until, len(engines))
        self._take_infos({engine: call.get(0) for engine, call in asked.items()})
        self._known_engines.update(self._uuid(engine) for engine in engines)
        if advance is not None:
            advance(self._shape.world_size - seen, None)

    def _prepared_place(self) -> Place:
        if self._place is None:
            raise WorldError("There are no ranks.", where="%trt_mpi", remedy="Start them with: %trt_mpi start")
        return self._place

    def _environment(self) -> dict[str, str]:
        """Return what every process has in its environment; a rank has beside it which start it belongs to."""
        package = str(Path(__file__).resolve().parents[2])
        paths = [package, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        return {
            WORLD: self._shape.id,
            FOLDER: str(self.folder),
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        }

    def _start_keeper(self) -> None:
        keeper = "trtbench_lab.distributed.keeper"
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", keeper, self._shape.id, str(os.getpid()), str(self.folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **self._environment()},
            start_new_session=True,
        )

    def _connected_client(self) -> Any:
        if self.client is None:
            with contextlib.redirect_stdout(sys.stderr):
                self.client = self._roster.client = self._cluster.connect_client_sync(timeout=30)
        return self.client

    def _new_engines(self) -> list[int]:
        """Return the engines of the present start; numbers of dead ones are given out again, their names are not."""
        return sorted(engine for engine in self.client.ids if self._uuid(engine) not in self._known_engines)

    def _uuid(self, engine: int) -> str:
        return str(self.client._engines.get(engine))

    def _check_start(self, until: float | None, started: int) -> None:
        reason = self._prepared_place().why_ended()
        if reason is None and (until is None or time.monotonic() < until):
            return
        output = self.output().strip()
        lines = [line for line in output.splitlines() if line.strip()]
        said = "\n".join(f"    {line}" for line in lines[-12:])
        what = reason or (
            f"{started} of {self._shape.world_size} ranks had started after {self._shape.start_timeout_s:g} s."
        )
        raise WorldError(
            f"{what}{' It said:' if said else ''}\n{said}".rstrip(),
            where="%trt_mpi start",
            remedy="Look at what is missing with: %trt_doctor --mpi",
            details=output or None,
        )

    def _take_infos(self, by_engine: Mapping[int, RankInfo]) -> None:
        sizes = {info.world_size for info in by_engine.values()}
        if sizes != {self._shape.world_size}:
            raise WorldError(
                f"{self._shape.world_size} ranks were started, and each believes to be one of {min(sizes)}: mpi4py "
                "loads another MPI than the launcher's.",
                where="%trt_mpi start",
                remedy="%trt_doctor --mpi shows both and what to install.",
            )
        self._roster.fill(by_engine)

    # ---- what they wrote, and their end -----------------------------------------------------------------------------

    def output(self) -> str:
        """Return what the launcher and the ranks wrote outside of cells."""
        return self._place.output() if self._place is not None else ""

    def end_ranks(self) -> None:
        """End the ranks of the present start, whatever they do; the controller stays."""
        self._prepared_place().end_ranks()
        end_processes(self._shape.id, str(self._starts))

    def end(self) -> None:
        """End every process; a second time does nothing."""
        with self._ending:
            self._cluster = None
            self._roster.clear()
            self._roster.mark_all("stopped")
            if self.client is not None:
                with contextlib.suppress(Exception):
                    self.client.close(linger=0)
                self.client = self._roster.client = None
            if self._place is not None and self.folder is not None:
                self._place.end(self.folder)
            end_processes(self._shape.id)
            if self._keeper is not None:
                self._keeper.wait(5)  # it belonged to the world, so it is gone
                self._keeper = None
            if self.folder is not None and self.folder.name.startswith(FOLDER_PREFIX):
                shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None
