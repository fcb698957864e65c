"""Probes that end: every check has its time, and what a broken library may do happens in a child process."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from .packages import first_line
from .report import DoctorRow, warning

CHECK_S = 60.0
"""Seconds a check may take; the slowest sound one imports TensorRT's 2 GB of libraries from a cold disk."""
CHILD_S = 45.0


def rows_of(name: str, check: Callable[[], Iterable[DoctorRow]], *, seconds: float = CHECK_S) -> list[DoctorRow]:
    """Return a check's rows; a check that raises or does not end becomes a row that says so.

    A check that hangs (a dead network disk, a driver that does not answer) is left behind in its thread.
    """
    found: queue.SimpleQueue[DoctorRow | BaseException | None] = queue.SimpleQueue()

    def look() -> None:
        try:
            for row in check():
                found.put(row)
            found.put(None)
        except Exception as fault:  # whatever a broken installation leads to
            found.put(fault)

    threading.Thread(target=look, name=f"doctor-{name}", daemon=True).start()
    rows: list[DoctorRow] = []
    while True:
        try:
            item = found.get(timeout=seconds)
        except queue.Empty:
            meaning = f"It gave no answer within {seconds:g} s and was left alone."
            rows.append(warning(name, "no answer", meaning, "Look at it by hand: a driver or a network disk may hang."))
            return rows
        if item is None:
            return rows
        if isinstance(item, BaseException):
            reason = f"{type(item).__name__}: {first_line(item)}"
            remedy = "Mend or install again what the message names."
            rows.append(warning(name, "unknown", f"It could not be looked at ({reason}).", remedy))
            return rows
        rows.append(item)


def child_output(code: str, *, seconds: float = CHILD_S, environment: dict[str, str] | None = None) -> tuple[str, str]:
    """Run Python code in another process; return what it printed, and why it failed ("" where it did not)."""
    options: dict[str, Any] = {"check": False, "capture_output": True, "text": True, "stdin": subprocess.DEVNULL}
    try:
        done = subprocess.run([sys.executable, "-c", code], timeout=seconds, env=environment, **options)
    except subprocess.TimeoutExpired:
        return "", f"it takes over {seconds:g} s"
    except OSError as fault:
        return "", first_line(fault)
    if done.returncode == 0:
        return done.stdout.strip(), ""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return done.stdout.strip(), lines[-1][:200] if lines else f"the process ended with status {done.returncode}"
