"""`BuildMonitor`: builds as they run: phases, elapsed time, log by severity, memory, cancel; never a percentage."""

from __future__ import annotations

import html
import threading
from collections.abc import Sequence
from typing import Any

import traitlets

from trtbench_lab.results import Table
from trtbench_lab.results.render import html_table, plain_table

from .build_watch import BuildWatch, Watched
from .page import Page, heading_html, script, style


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

    _esm = script("build_view", "build_monitor")
    _css = style("build_view")

    builds = traitlets.List(traitlets.Dict()).tag(sync=True)
    log = traitlets.List(traitlets.Dict()).tag(sync=True)

    def __init__(
        self, *jobs: Watched, labels: Sequence[str] = (), interval_s: float = 0.25, theme: str = "auto"
    ) -> None:
        names = [f"Build {number}" for number in range(1, len(jobs) + 1)] if len(jobs) > 1 else ["Build"]
        self._gathered = BuildWatch(jobs, [*labels, *names[len(labels) :]])
        self._closed = threading.Event()
        self._interval_s = interval_s
        super().__init__(theme=theme)
        self.poll()
        self._thread = threading.Thread(target=self._watch, name="build-monitor", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether every build has ended, in whatever way."""
        return self._gathered.ended

    def poll(self) -> None:
        """Ask every build once."""
        self._gathered.ask()
        with self.hold_sync():
            self.builds = self._gathered.builds
            self.log = self._gathered.log

    def cancel(self, index: int = 0) -> None:
        """Stop one build; it leaves nothing half-made behind."""
        self._gathered.jobs[index].cancel("The build was cancelled from its monitor.", wait=False)

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

    def _watch(self) -> None:
        while not self._closed.wait(self._interval_s):
            try:
                self.poll()
            except Exception as error:  # a job that cannot be asked any more must not end the thread without a word
                self.notice = f"The build cannot be asked: {error}"
                return
            if self.ended:
                return
