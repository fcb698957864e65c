"""What builds tell, gathered for a page: phases by rank, memory over time, the log; for the monitor and the guide."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from trtbench_lab.engine import BuildEvent

LINES = 400  # of the log, on the page; the whole log lies beside the engine
POINTS = 240  # of the memory line: more than a narrow column has pixels to tell apart
ENDED = ("done", "failed", "cancelled")


class Watched(Protocol):
    """What is watched: a `trtbench_lab.engine.BuildJob`, or anything that tells as much."""

    @property
    def state(self) -> str: ...

    @property
    def elapsed_s(self) -> float: ...

    @property
    def resident_bytes(self) -> int: ...

    @property
    def peak_bytes(self) -> int: ...

    def events(self) -> list[BuildEvent]: ...

    def cancel(self, reason: str = ..., *, wait: bool = ...) -> None: ...


class BuildWatch:
    """Gathers what builds tell, each with a label; asked again, it adds what is new to the line of memory."""

    def __init__(self, jobs: Sequence[Watched], labels: Sequence[str]) -> None:
        self.jobs, self.labels = list(jobs), list(labels)
        self.builds: list[dict[str, Any]] = []
        self.log: list[dict[str, Any]] = []
        self._memory: list[list[list[float]]] = [[] for _ in jobs]

    @property
    def ended(self) -> bool:
        """Whether every build has ended, in whatever way."""
        return all(job.state in ENDED for job in self.jobs)

    def ask(self) -> None:
        """Ask every build once."""
        events = [job.events() for job in self.jobs]
        lines = [line for index, found in enumerate(events) for line in _lines(index, found)]
        lines.sort(key=lambda line: line["at"])
        self.builds = [self._entry(index, found) for index, found in enumerate(events)]
        self.log = lines[-LINES:]

    def _entry(self, index: int, events: list[BuildEvent]) -> dict[str, Any]:
        job = self.jobs[index]
        held = self._memory[index]
        if job.state not in ENDED and job.resident_bytes:
            held.append([round(job.elapsed_s, 2), job.resident_bytes])
            if len(held) > POINTS:
                del held[1::2]  # half of the points, evenly: the line keeps its shape over any length of time
        ended = job.state in ENDED
        # A build that runs is told by when it began, so that seconds which pass change nothing here.
        began = time.time() - job.elapsed_s
        known = self.builds[index] if index < len(self.builds) else None
        if known and abs(known["began"] - began) < 1.0:
            began = known["began"]
        return {
            "label": self.labels[index],
            "state": job.state,
            "began": round(began, 2),
            "elapsed": round(job.elapsed_s, 1) if ended else 0.0,
            "phases": _phases(events, began),
            "memory": [list(point) for point in held],
            "resident": job.resident_bytes,
            "peak": job.peak_bytes,
            "notes": [event.text for event in events if event.kind == "note"],
            "error": str(error) if (error := getattr(job, "error", None)) else "",
        }


class ChildBuild:
    """A build in a child process, from the events that come through its pipe.

    Parameters
    ----------
    stop
        Stops the process.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self.state, self.error = "running", ""
        self.resident_bytes, self.peak_bytes = 0, 0
        self._stop, self._events = stop, list[BuildEvent]()
        self._began: float | None = None
        self._seconds: float | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the build was asked for, by the first event's own clock."""
        if self._seconds is not None:
            return self._seconds
        return 0.0 if self._began is None else time.monotonic() - self._began

    def events(self) -> list[BuildEvent]:
        """Return the events so far, heartbeats left out."""
        return list(self._events)

    def take(self, fields: dict[str, Any]) -> None:
        """Take one event as it came through the pipe."""
        event = BuildEvent(**fields)
        if self._began is None:
            self._began = time.monotonic() - event.elapsed_s
        if event.kind == "heartbeat":
            self.resident_bytes = event.resident_bytes or 0
            self.peak_bytes = max(self.peak_bytes, event.peak_bytes or 0)
        else:
            self._events.append(event)

    def end(self, state: str, error: str = "") -> None:
        """Take how it ended."""
        self._seconds = self.elapsed_s
        self.state, self.error = state, error
        self.resident_bytes = 0

    def cancel(self, reason: str = "", *, wait: bool = True) -> None:
        """Stop it; one that has ended stays as it is."""
        if self.state not in ENDED:
            self.state = "cancelling"
            self._stop()


def _phases(events: Sequence[BuildEvent], began: float) -> list[dict[str, Any]]:
    """Return phases in the order in which they began, each with its rank, state and seconds."""
    found: dict[tuple[str, int | None], dict[str, Any]] = {}
    for event in events:
        if event.kind != "phase":
            continue
        entry = found.setdefault((event.text, event.rank), {"name": event.text, "rank": event.rank})
        entry["state"] = event.state or "running"
        entry["seconds"] = round(event.phase_s or 0.0, 2)
        if event.state == "running":
            entry["since"] = round(began + event.elapsed_s - (event.phase_s or 0.0), 2)
    return list(found.values())


def _lines(index: int, events: Sequence[BuildEvent]) -> list[dict[str, Any]]:
    return [
        {"job": index, "at": round(event.elapsed_s, 2), "severity": event.severity or "info", "text": event.text[:600],
         "rank": event.rank}
        for event in events
        if event.kind == "log"
    ][-LINES:]  # fmt: skip
