"""Progress of anything that takes over a second: phases, counts and elapsed time, never an invented percentage."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass


@dataclass(frozen=True)
class ProgressEvent:
    """One observation of running work.

    Attributes
    ----------
    phase
        What is being done, for example ``"write rank 0"``.
    done, total
        Units finished and units in all; `total` is None where nobody knows it.
    unit
        ``"B"`` for bytes, ``"tensor"``, ``"token"``, ``"run"`` …
    elapsed_s
        Seconds since the phase began.
    state
        ``"running"``, ``"done"`` or ``"failed"``.
    message
        A short remark, for example the file at hand.
    """

    phase: str
    done: int = 0
    total: int | None = None
    unit: str = ""
    elapsed_s: float = 0.0
    state: str = "running"
    message: str | None = None


ProgressSink = Callable[[ProgressEvent], None]


def no_progress(event: ProgressEvent) -> None:
    """Sink that ignores every event."""


class Phase:
    """Counter of one phase; events are throttled so that a tight loop costs nothing.

    Several threads may count at once: no unit is lost, and the sink is called by one of them at a time.
    """

    def __init__(self, name: str, sink: ProgressSink, total: int | None, unit: str, interval_s: float):
        self.name, self.total, self.unit = name, total, unit
        self.done = 0
        self.message: str | None = None
        self._sink = sink
        self._interval_s = interval_s
        self._started = time.monotonic()
        self._last = float("-inf")
        self._lock = threading.RLock()  # reentrant: a sink may look at the phase it is told about

    def advance(self, count: int = 1, message: str | None = None) -> None:
        """Count `count` more units and tell the sink, at most once an interval."""
        with self._lock:
            self.done += count
            if message is not None:
                self.message = message
            now = time.monotonic()
            if now - self._last >= self._interval_s:
                self._last = now
                self.emit("running")

    def emit(self, state: str) -> None:
        """Tell the sink the present state at once."""
        with self._lock:
            elapsed_s = time.monotonic() - self._started
            self._sink(ProgressEvent(self.name, self.done, self.total, self.unit, elapsed_s, state, self.message))


@contextmanager
def phase(
    name: str,
    sink: ProgressSink | None = None,
    *,
    total: int | None = None,
    unit: str = "",
    interval_s: float = 0.1,
) -> Iterator[Phase]:
    """Report the body as one phase: a first event, throttled ones, and a last one that says done or failed."""
    current = Phase(name, sink or no_progress, total, unit, interval_s)
    current.emit("running")
    try:
        yield current
    except BaseException:
        with suppress(Exception):  # a display that fails too must not hide why the work failed
            current.emit("failed")
        raise
    current.emit("done")
