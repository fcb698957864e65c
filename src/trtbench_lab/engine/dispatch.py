"""Delivers a build's events to callbacks from a thread of its own, throttled: a slow display never slows a build."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ..progress import ProgressSink
from .events import BuildEvent
from .monitor import BuildMonitor

_INTERVAL_S = 0.1
_LINES_A_TURN = 50

EventSink = Callable[[BuildEvent], None]


class Dispatcher:
    """Calls the sinks until the build has ended and its last event is delivered.

    States, phases and notes all arrive. Of the heartbeats between two turns only the last does, and of log lines the
    newest fifty: the whole tail is the log's. A sink that raises is not called again, and the log says so.
    """

    def __init__(self, monitor: BuildMonitor, progress: ProgressSink | None, on_event: EventSink | None):
        self._monitor = monitor
        self._sinks: dict[str, EventSink] = {}
        if on_event is not None:
            self._sinks["on_event"] = on_event
        if progress is not None:
            self._sinks["progress"] = _progress_sink(progress)
        self._ended = False
        self._thread = threading.Thread(target=self._deliver, name="trtbench-build-events", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        if self._sinks:
            self._thread.start()

    def finish(self, timeout_s: float = 2.0) -> None:
        """Deliver what is left; a sink that hangs is not waited for longer than `timeout_s`."""
        with self._monitor.changed:
            self._ended = True
            self._monitor.changed.notify_all()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def _deliver(self) -> None:
        index = 0
        while True:
            with self._monitor.changed:
                ended = self._ended
            events, index = self._monitor.events_since(index)
            for event in thinned(events):
                self._call(event)
            if ended:
                return
            time.sleep(_INTERVAL_S)
            with self._monitor.changed:
                while not self._ended and self._monitor.num_events == index:
                    self._monitor.changed.wait()

    def _call(self, event: BuildEvent) -> None:
        for name, sink in list(self._sinks.items()):
            try:
                sink(event)
            except Exception as error:
                del self._sinks[name]
                text = f"The callback {name} raised {type(error).__name__}: {error}; it is not called again."
                self._monitor.add_line("warning", text)


def thinned(events: list[BuildEvent]) -> list[BuildEvent]:
    """Return the events without all but the last heartbeat and all but the newest log lines, in order."""
    beats = [i for i, event in enumerate(events) if event.kind == "heartbeat"]
    lines = [i for i, event in enumerate(events) if event.kind == "log"]
    dropped = {*beats[:-1], *lines[:-_LINES_A_TURN]}
    return [event for i, event in enumerate(events) if i not in dropped]


def _progress_sink(progress: ProgressSink) -> EventSink:
    def sink(event: BuildEvent) -> None:
        converted = event.as_progress()
        if converted is not None:
            progress(converted)

    return sink
