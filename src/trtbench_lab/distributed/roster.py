"""The ranks of a world as they are known here: who they are, what they do, whether they live, where they stand."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from .engine import STACK_SIGNAL, stack_name
from .rank import RankInfo
from .stacks import places_from_dump, text_from_places
from .status import RankStatus

_STACK_S, _STACK_QUIET_S = 1.5, 0.15


class Roster:
    """What is known of each rank; safe to read from any thread, and no rank is asked for it.

    Parameters
    ----------
    world_size
        How many ranks there are to be.
    """

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.client: Any = None
        self.down = ""
        """Which ranks died, in words; empty while all live."""
        self._half_a_collective = False
        self._infos: dict[int, RankInfo] = {}
        self._engines: dict[int, int] = {}
        self._processes: dict[int, psutil.Process] = {}
        self._states: dict[int, tuple[str, float]] = {}
        self._lines: dict[int, str] = {}
        self._lock = threading.RLock()

    # ---- who they are -----------------------------------------------------------------------------------------------

    @property
    def is_complete(self) -> bool:
        """Whether the ranks have said who they are."""
        return bool(self._infos)

    def clear(self) -> None:
        """Forget who they were: they are being ended, or replaced."""
        self._infos = {}

    def expect_others(self) -> None:
        """Forget what the ranks were and left: others are being started in their place."""
        self.clear()
        self.down, self._half_a_collective = "", False
        self.mark_all("starting")

    def fill(self, by_engine: Mapping[int, RankInfo]) -> None:
        """Take what each of ipyparallel's engines says of itself."""
        here = os.uname().nodename
        with self._lock:
            self._infos = {info.rank: info for info in sorted(by_engine.values(), key=lambda info: info.rank)}
            self._engines = {info.rank: engine for engine, info in by_engine.items()}
            self._processes = {}
            for rank, info in self._infos.items():
                if info.host == here:
                    with contextlib.suppress(psutil.Error):
                        self._processes[rank] = psutil.Process(info.pid)
            self._lines = {}
            self.mark_all("idle")

    def engine_of(self, rank: int) -> int:
        """Return the number of a rank among ipyparallel's engines."""
        return self._engines[rank]

    def describe(self, rank: int) -> str:
        """Return ``"rank 1 (engine 1, host a, GPU 1, pid 17)"``."""
        info = self._infos.get(rank)
        if info is None:
            return f"rank {rank}"
        gpu = f", GPU {info.gpu}" if info.gpu else ""
        return f"rank {rank} (engine {self._engines[rank]}, host {info.host}{gpu}, pid {info.pid})"

    # ---- what they do -----------------------------------------------------------------------------------------------

    def mark(self, ranks: Sequence[int], state: str) -> None:
        with self._lock:
            self._states.update(dict.fromkeys(ranks, (state, time.monotonic())))

    def mark_all(self, state: str) -> None:
        self.mark(range(self.world_size), state)

    def mark_dead(self, dead: Sequence[int], words: str) -> None:
        """Note who died; the others are ended with them."""
        self.down = words
        self.mark([rank for rank in range(self.world_size) if rank not in dead], "stopped")
        self.mark(dead, "dead")

    def suspect(self) -> None:
        """Note that a failed cell may have left half a collective: the next one gets new communicators."""
        self._half_a_collective = True

    def take_suspicion(self, ranks: Sequence[int]) -> bool:
        """Return whether a cell on these ranks must renew communicators, which all ranks do together."""
        if not self._half_a_collective or len(ranks) < self.world_size:
            return False
        self._half_a_collective = False
        return True

    def mark_line(self, rank: int, text: str) -> None:
        lines = [line for line in text.splitlines() if line.strip()]
        if lines:
            self._lines[rank] = lines[-1][-200:]

    def status(self) -> tuple[RankStatus, ...]:
        """Return what is known of each rank, in order, in microseconds."""
        now = time.monotonic()
        # Once a death is known the others were ended with it; who died first is on record.
        dead = set() if self.down else set(self.dead())
        with self._lock:
            found = []
            for rank in range(self.world_size):
                state, since = self._states.get(rank, ("stopped", now))
                info = self._infos.get(rank)
                found.append(
                    RankStatus(
                        rank,
                        self._engines.get(rank, -1) if info else -1,
                        info.host if info else "",
                        info.gpu if info else None,
                        info.pid if info else 0,
                        "dead" if rank in dead else state,
                        now - since,
                        self._lines.get(rank, ""),
                    )
                )
            return tuple(found)

    def dead(self) -> tuple[int, ...]:
        """Return the ranks whose process has ended, as the operating system or, for other hosts, ipyparallel says."""
        if not self._infos:
            return ()
        known = set(self.client.ids) if self.client is not None else set()
        return tuple(
            rank
            for rank in self._infos
            if (_has_ended(self._processes[rank]) if rank in self._processes else self._engines[rank] not in known)
        )

    # ---- signals ----------------------------------------------------------------------------------------------------

    def interrupt(self, ranks: Sequence[int]) -> None:
        """Send Ctrl-C's signal to ranks."""
        self._signal(ranks, signal.SIGINT)

    def _signal(self, ranks: Sequence[int], number: int) -> None:
        elsewhere = []
        for rank in ranks:
            if rank in self._processes:
                with contextlib.suppress(psutil.Error):
                    self._processes[rank].send_signal(number)
            else:
                elsewhere.append(self._engines[rank])
        if elsewhere:
            self.client.send_signal(int(number), targets=elsewhere, block=False)

    def where_they_stand(self, ranks: Sequence[int], folder: Path, cell: str, code_name: str) -> list[str]:
        """Return for each rank where its Python stands, also inside a blocked call of MPI.

        Parameters
        ----------
        folder
            Where ranks write their stacks when the signal comes.
        cell, code_name
            The text of the cell that runs, and what stacks call it.
        """
        infos = {rank: self._infos[rank] for rank in ranks if rank in self._infos}
        files = {rank: folder / stack_name(info.host, info.pid) for rank, info in infos.items()}
        before = {rank: _text(path) for rank, path in files.items()}
        self._signal(list(files), STACK_SIGNAL)
        until = time.monotonic() + _STACK_S
        found: list[str] = []
        for rank, path in files.items():
            dump, grown = "", time.monotonic()
            # The thread that runs the cell is written last, and nothing tells the end of a dump.
            while (now := time.monotonic()) < until and not (dump.endswith("\n") and now - grown > _STACK_QUIET_S):
                time.sleep(0.02)
                if (text := _text(path)[len(before[rank]) :]) != dump:
                    dump, grown = text, time.monotonic()
            places = places_from_dump(dump, code_name)
            found += [f"{self.describe(rank)}:", text_from_places(places, cell, code_name)]
        return found


def _has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return True


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
