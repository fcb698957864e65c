"""TensorRT's messages on their way into a log: levels translated, repetitions counted instead of repeated."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

Sink = Callable[[str, str], None]
"""Takes a level (debug, info, warning, error) and a line."""

SHOWN_ALIKE = 3
"""Messages that differ in numbers only are shown this often; the rest is counted."""
_KEPT_ERRORS = 50
_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|\d+")


class MessageGroups:
    """Passes messages on, groups those that are alike, and remembers errors. Called from several threads."""

    def __init__(self, sink: Sink):
        self._sink = sink
        self._lock = threading.Lock()
        self._seen: Counter[tuple[str, str]] = Counter()
        self._first: dict[tuple[str, str], str] = {}
        self.errors: list[str] = []

    def add(self, level: str, text: str) -> None:
        """Take one message."""
        key = level, _NUMBERS.sub("#", text)
        with self._lock:
            self._seen[key] += 1
            self._first.setdefault(key, text)
            shown = level not in ("warning", "error") or self._seen[key] <= SHOWN_ALIKE
            if level == "error" and len(self.errors) < _KEPT_ERRORS:
                self.errors.append(text)
        if shown:
            self._sink(level, f"[TRT] {text}")

    def finish(self) -> None:
        """Say how often the messages that were held back came."""
        with self._lock:
            held = {key: count - SHOWN_ALIKE for key, count in self._seen.items() if count > SHOWN_ALIKE}
            first = dict(self._first)
            self._seen.clear()
        for (level, template), count in held.items():
            if level in ("warning", "error"):
                self._sink(level, f"[TRT] {count} more like this: {first[level, template]}")


def make_logger(trt: Any, sink: Sink) -> Any:
    """Return an `ILogger` whose messages reach `sink`; it keeps them grouped as its `groups`.

    Keep it alive as long as anything of TensorRT that was made with it.
    """
    severity = trt.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: "error",
        severity.ERROR: "error",
        severity.WARNING: "warning",
        severity.INFO: "info",
        severity.VERBOSE: "debug",
    }

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.groups = MessageGroups(sink)

        def log(self, severity: Any, msg: str) -> None:
            self.groups.add(levels[severity], msg)

    return Logger()
