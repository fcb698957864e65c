"""A running build, seen and stopped from outside: TensorRT's phases become the build's."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager, suppress
from typing import Any

from ...errors import BuildCancelled
from ..protocol import BuildReporter

SHOWN_DEPTH = 2
"""Phases nested deeper go to the log only: TensorRT opens hundreds, of which most take microseconds."""


class PhaseReport:
    """What TensorRT's progress callbacks do; they come from several threads, in no strict order.

    TensorRT counts steps of phases that cover a small part of a build's time, so no share of the whole is ever derived
    from them.
    """

    def __init__(self, report: BuildReporter):
        self._report = report
        self._lock = threading.Lock()
        self._depths: dict[str, int] = {}
        self._open: dict[str, AbstractContextManager[Any]] = {}
        self._started: dict[str, float] = {}
        self.cancelled = False

    def start(self, name: str, parent: str | None) -> None:
        """A phase begins; `parent` None is the root."""
        with self._lock:
            depth = self._depths[name] = 1 + (self._depths.get(parent, 0) if parent is not None else 0)
            self._started[name] = time.monotonic()
            if depth > SHOWN_DEPTH:
                return
            phase = self._report.phase(f"TensorRT: {name}")
            try:
                phase.__enter__()
                self._open[name] = phase
            except BuildCancelled:
                self.cancelled = True

    def step(self) -> bool:
        """Return whether the build shall go on."""
        try:
            self._report.check_cancelled()
        except BuildCancelled:
            self.cancelled = True
        return not self.cancelled

    def finish(self, name: str) -> None:
        """A phase has ended, possibly before all of its steps were counted."""
        with self._lock:
            depth = self._depths.pop(name, 0)
            seconds = time.monotonic() - self._started.pop(name, time.monotonic())
            phase = self._open.pop(name, None)
            if phase is not None:
                self._close(phase)
        if phase is None and depth:
            self._report.log("debug", f"TensorRT: {name} took {seconds:.3f} s")

    def close(self) -> None:
        """End what TensorRT has left open, as it does when a build fails."""
        with self._lock:
            while self._open:
                self._close(self._open.popitem()[1])

    def _close(self, phase: AbstractContextManager[Any]) -> None:
        with suppress(BuildCancelled):
            phase.__exit__(None, None, None)
            return
        self.cancelled = True


def make_progress_monitor(trt: Any, phases: PhaseReport) -> Any:
    """Return an `IProgressMonitor` over `phases`; keep it alive longer than the builder's configuration."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return phases.step()

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()
