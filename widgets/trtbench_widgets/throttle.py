"""Fewer messages than updates: what changes often is gathered and sent a few times a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

INTERVAL_S = 0.1  # ten a second look smooth; each message costs the page a redraw and the kernel some 0.2 ms


class Throttle:
    """Gathers values by name and hands the newest of each on, at most once an interval.

    A value that comes while the interval runs is sent at its end, so the last one always arrives. Safe across threads.

    Parameters
    ----------
    send
        Takes the gathered values.
    interval_s
        Least time between two calls of `send`.
    clock
        Monotonic seconds; tests pass their own.
    """

    def __init__(
        self,
        send: Callable[[dict[str, Any]], None],
        *,
        interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send, self._interval_s, self._clock = send, interval_s, clock
        self._pending: dict[str, Any] = {}
        self._last = float("-inf")
        self._timer: threading.Timer | None = None
        self._lock = threading.RLock()
        self.sent = 0

    def update(self, **values: Any) -> None:
        """Take new values; they are sent now, or when the interval ends."""
        with self._lock:
            self._pending.update(values)
            ahead = self._last + self._interval_s - self._clock()
            if ahead <= 0:
                self._deliver()
            elif self._timer is None:
                self._timer = threading.Timer(ahead, self.flush)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        """Send what is gathered, at once."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._deliver()

    def _deliver(self) -> None:
        self._timer = None
        if self._pending:
            values, self._pending = self._pending, {}
            self._last = self._clock()
            self.sent += 1
            self._send(values)
