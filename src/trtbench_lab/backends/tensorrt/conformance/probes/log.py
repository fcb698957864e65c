"""A build reporter that prints: the output of a trial is its log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class PrintingReporter:
    """See `backends.protocol.BuildReporter`."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Print the phase and what it took."""
        started = time.monotonic()
        print(f"-- {name}", flush=True)  # noqa: T201
        yield
        print(f"-- {name}: {time.monotonic() - started:.2f} s", flush=True)  # noqa: T201

    def log(self, level: str, message: str) -> None:
        """Print the line."""
        print(f"[{level}] {message}", flush=True)  # noqa: T201

    def check_cancelled(self) -> None:
        """Never: the owner ends the whole process."""
