"""`BuildMonitor`: builds as they run: phases, elapsed time, log by severity, memory, cancel; never a percentage."""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

import traitlets

from trtbench_lab.engine import BuildEvent
from trtbench_lab.results import Table
from trtbench_lab.results.render import html_table, plain_table

from .page import Page, heading_html, script, style

_LINES = 400  # of the log, on the page; the whole log lies beside the engine
_POINTS = 240  # of the memory line: more than a narrow column has pixels to tell apart
_ENDED = ("done", "failed", "cancelled")


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


class BuildMonitor(Page):
    """Watch one build or several, each rank a column; the kernel stays free, for builds run in child processes.

    Builds are asked from a thread a few times a second, and only what is new is sent: elapsed time is counted by the
    page. There is no percentage, since nobody knows one.

    Parameters
    ----------
    *jobs
        What `trtbench_lab.start_build` returned.
    labels
        What the jobs are called; "Build 1", "Build 2" … where nothing is given.
    interval_s
        How often they are asked.
    theme
        ``"auto"``, ``"light"`` or ``"dark"``.

    Attributes
    ----------
    builds
        One dictionary a job: label, state, seconds, phases by rank, memory, notes.
    log
        Lines of all jobs, newest last: job, seconds, severity, text, rank.
    """

    _esm = script("build_monitor")
    _css = style("build_monitor")

    builds = traitlets.List(traitlets.Dict()).tag(sync=True)
    log = traitlets.List(traitlets.Dict()).tag(sync=True)

    def __init__(
        self, *jobs: Watched, labels: Sequence[str] = (), interval_s: float = 0.25, theme: str = "auto"
    ) -> None:
        self._jobs = list(jobs)
        names = [f"Build {number}" for number in range(1, len(jobs) + 1)] if len(jobs) > 1 else ["Build"]
        self._labels = [*labels, *names[len(labels) :]]
        self._memory: list[list[list[float]]] = [[] for _ in jobs]
        self._closed = threading.Event()
        self._interval_s = interval_s
        super().__init__(theme=theme)
        self.poll()
        self._thread = threading.Thread(target=self._watch, name="build-monitor", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether every build has ended, in whatever way."""
        return all(job.state in _ENDED for job in self._jobs)

    def poll(self) -> None:
        """Ask every build once."""
        events = [job.events() for job in self._jobs]
        lines = [line for index, found in enumerate(events) for line in _lines(index, found)]
        lines.sort(key=lambda line: line["at"])
        with self.hold_sync():
            self.builds = [self._entry(index, found) for index, found in enumerate(events)]
            self.log = lines[-_LINES:]

    def cancel(self, index: int = 0) -> None:
        """Stop one build; it leaves nothing half-made behind."""
        self._jobs[index].cancel("The build was cancelled from its monitor.", wait=False)

    def close(self) -> None:
        """Stop asking, and take the view away; builds go on."""
        self._closed.set()
        super().close()

    def on_message(self, message: dict[str, Any]) -> None:
        if message.get("kind") == "cancel":
            self.cancel(int(message["job"]))
            self.poll()

    def fallback_html(self) -> str:
        return (
            heading_html("Builds", self._summary())
            + html_table(self._table())
            + f"<pre>{html.escape(self._tail())}</pre>"
        )

    def fallback_text(self) -> str:
        return f"Builds: {self._summary()}\n{plain_table(self._table())}\n{self._tail()}"

    def _summary(self) -> str:
        return ", ".join(f"{build['label']} {build['state']} ({build['elapsed']:.1f} s)" for build in self.builds)

    def _tail(self) -> str:
        return "\n".join(f"{line['severity']}: {line['text']}" for line in self.log[-8:])

    def _table(self) -> Table:
        rows = [
            (build["label"], "all" if phase["rank"] is None else str(phase["rank"]), phase["name"], phase["state"],
             f"{phase['seconds']:.1f}")
            for build in self.builds
            for phase in build["phases"]
        ]  # fmt: skip
        return Table(("build", "rank", "phase", "state", "seconds"), rows)

    def _entry(self, index: int, events: list[BuildEvent]) -> dict[str, Any]:
        job = self._jobs[index]
        held = self._memory[index]
        if job.state not in _ENDED and job.resident_bytes:
            held.append([round(job.elapsed_s, 2), job.resident_bytes])
            if len(held) > _POINTS:
                del held[1::2]  # half of the points, evenly: the line keeps its shape over any length of time
        ended = job.state in _ENDED
        # A build that runs is told by when it began, so that seconds which pass change nothing here.
        began = time.time() - job.elapsed_s
        known = self.builds[index] if index < len(self.builds) else None
        if known and abs(known["began"] - began) < 1.0:
            began = known["began"]
        return {
            "label": self._labels[index],
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

    def _watch(self) -> None:
        while not self._closed.wait(self._interval_s):
            try:
                self.poll()
            except Exception as error:  # a job that cannot be asked any more must not end the thread without a word
                self.notice = f"The build cannot be asked: {error}"
                return
            if self.ended:
                return


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
    ][-_LINES:]  # fmt: skip
