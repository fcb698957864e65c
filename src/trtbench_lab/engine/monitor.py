"""What happens in one build, seen from its owner: events, log, phases, memory, and the wish to stop."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ..errors import BuildCancelled
from .events import BuildEvent
from .logs import SEVERITIES, BuildLog, LogLine

_EVENTS_KEPT = 10_000
_LEAST_SEVERITY = {"verbose": 0, "info": 1, "warning": 2, "error": 3, "internal_error": 3}  # indexes of SEVERITIES


@dataclass(frozen=True)
class PhaseRecord:
    """One finished phase: its name, how long it took, how it ended, and its rank where it had one."""

    name: str
    seconds: float
    state: str
    rank: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain data."""
        return {"name": self.name, "seconds": round(self.seconds, 4), "state": self.state, "rank": self.rank}


class BuildMonitor:
    """Thread-safe record of one build; the building thread writes, anyone reads, anyone may cancel.

    Parameters
    ----------
    timeout_s
        Seconds that the whole build may take, waiting for other processes included; None for no limit.
    log_level
        The least severe lines to keep, as in `BuildConfig.log_level`.
    """

    def __init__(self, timeout_s: float | None = None, log_level: str = "verbose"):
        self.started = time.monotonic()
        self.log = BuildLog()
        self.phases: list[PhaseRecord] = []
        self.notes: list[str] = []
        self.resident_bytes = 0
        self.peak_bytes = 0
        self.state = "running"
        self.changed = threading.Condition()
        self._timeout_s = timeout_s
        self._least_severity = _LEAST_SEVERITY[log_level]
        self._events: deque[BuildEvent] = deque(maxlen=_EVENTS_KEPT)
        self._num_events = 0
        self._running: dict[tuple[str, int | None], float] = {}
        self._cancel_reason: str | None = None
        self._cancel_time: float | None = None
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    # ---- written by the building thread ----------------------------------------------------------------------

    def set_state(self, state: str) -> None:
        """Change the state of the whole build and tell it."""
        self.state = state
        self._emit("state", state)

    def note(self, text: str) -> None:
        """Keep an honest remark (once): it goes to config.json and to whoever watches."""
        if text not in self.notes:
            self.notes.append(text)
            self._emit("note", text)

    def note_progress(self, text: str) -> None:
        """Tell a note that concerns this request only, and which config.json therefore does not keep."""
        self.add_line("info", text)
        self._emit("note", text)

    def add_line(self, severity: str, text: str, rank: int | None = None) -> None:
        """Add a line to the log, unless it is below the log level."""
        if SEVERITIES.index(severity) < self._least_severity:
            return
        with self.changed:  # the tail may be read meanwhile
            self.log.add(LogLine(self.elapsed_s, severity, text, rank))
        self._emit("log", text, severity=severity, rank=rank)

    def phase_changed(self, name: str, state: str, phase_s: float, rank: int | None = None) -> None:
        """Record that a phase began, is done or failed."""
        with self.changed:
            if state == "running":
                self._running[name, rank] = time.monotonic() - phase_s
            else:
                self._running.pop((name, rank), None)
                self.phases.append(PhaseRecord(name, phase_s, state, rank))
        self._emit("phase", name, state=state, phase_s=phase_s, rank=rank)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Report the body as the phase `name`; a cancelled build does not begin it."""
        self.check_cancelled()
        started = time.monotonic()
        self.phase_changed(name, "running", 0.0)
        try:
            yield
        except BaseException:
            self.phase_changed(name, "failed", time.monotonic() - started)
            raise
        self.phase_changed(name, "done", time.monotonic() - started)

    def beat(self, resident_bytes: int, peak_bytes: int) -> None:
        """Tell that time passes, and what memory the build's processes hold."""
        self.resident_bytes = resident_bytes
        self.peak_bytes = max(self.peak_bytes, resident_bytes, peak_bytes)
        name, phase_s = self.current_phase()
        fields = {"resident_bytes": resident_bytes, "peak_bytes": self.peak_bytes}
        self._emit("heartbeat", name, phase_s=phase_s, **fields)

    # ---- read by anyone --------------------------------------------------------------------------------------

    @property
    def num_events(self) -> int:
        """Events so far, those that are no longer kept included."""
        return self._num_events

    @property
    def elapsed_s(self) -> float:
        """Seconds since the build was asked for."""
        return time.monotonic() - self.started

    def current_phase(self) -> tuple[str, float]:
        """Return the phase that began last and still runs, with its seconds; an empty name between phases."""
        with self.changed:
            if not self._running:
                return "", 0.0
            (name, rank), began = max(self._running.items(), key=lambda item: item[1])
        return name if rank is None else f"{name} (rank {rank})", time.monotonic() - began

    def events_since(self, index: int) -> tuple[list[BuildEvent], int]:
        """Return the events after the first `index` of this build (as far as they are kept), and the new index."""
        with self.changed:
            new = min(self._num_events - index, len(self._events))
            return (list(self._events)[-new:] if new > 0 else []), self._num_events

    # ---- stopping --------------------------------------------------------------------------------------------

    @property
    def is_cancelled(self) -> bool:
        """Whether the build was told to stop, or ran out of its time and has noticed it."""
        return self._cancel_time is not None

    def cancel(self, reason: str) -> bool:
        """Ask the build to stop and return True; False when it was told already: the first reason counts."""
        with self.changed:
            if self._cancel_time is not None:
                return False
            self._cancel_reason, self._cancel_time = reason, time.monotonic()
        self.wake()
        return True

    def cancelled_for_s(self) -> float | None:
        """Return the seconds since the build was told to stop, or None; running out of time counts as being told."""
        if self._cancel_time is None and self._timeout_s is not None and self.elapsed_s > self._timeout_s:
            name, _ = self.current_phase()
            where = f" in the phase {name!r}" if name else ""
            self.cancel(f"The build ran out of its time of {self._timeout_s:g} s{where}.")
        return None if self._cancel_time is None else time.monotonic() - self._cancel_time

    def check_cancelled(self) -> None:
        """Raise `BuildCancelled` when the build was told to stop or ran out of its time."""
        if self.cancelled_for_s() is not None:
            raise self.cancellation()

    def cancellation(self) -> BuildCancelled:
        """Return the error that a cancelled build ends with."""
        return BuildCancelled(
            self._cancel_reason or "The build was cancelled.",
            remedy="Nothing half-made was left behind; it can be started again.",
        )

    @property
    def wake_fd(self) -> int:
        """A descriptor that becomes readable when the build is told to stop."""
        return self._wake_read

    def wake(self) -> None:
        """Make `wake_fd` readable."""
        with suppress(OSError):
            os.write(self._wake_write, b".")

    def close(self) -> None:
        """Close the log's file and the descriptors; the record stays readable.

        A phase that still runs is one whose process died in it: it has failed.
        """
        self.log.close_file()
        with self.changed:
            unfinished = list(self._running.items())
        for (name, rank), began in unfinished:
            self.phase_changed(name, "failed", time.monotonic() - began, rank)
        with self.changed:
            for descriptor in (self._wake_read, self._wake_write):
                with suppress(OSError):
                    os.close(descriptor)
            self._wake_read = self._wake_write = -1

    def _emit(self, kind: str, text: str, **fields: Any) -> None:
        event = BuildEvent(kind=kind, elapsed_s=self.elapsed_s, text=text, **fields)
        with self.changed:
            self._events.append(event)
            self._num_events += 1
            self.changed.notify_all()
