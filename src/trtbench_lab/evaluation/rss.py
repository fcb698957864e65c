"""How much resident memory a piece of work adds at its peak."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

INTERVAL_S = 0.005  # a look takes some 20 µs, so the watched work runs at over 99 % of its speed


def resident_bytes() -> int:
    """Return the resident set of this process."""
    try:
        with open("/proc/self/statm", "rb") as handle:
            return int(handle.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # no procfs: macOS
        import psutil

        return int(psutil.Process().memory_info().rss)


def peak_rss_delta_bytes(work: Callable[[], object]) -> int:
    """Run `work` and return the process's peak resident set meanwhile, less that before it.

    It counts all of the process, and memory that an allocator kept from earlier work is used again without showing: a
    first run shows more than a second.
    """
    before = resident_bytes()
    peak = before
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(INTERVAL_S):
            peak = max(peak, resident_bytes())

    watcher = threading.Thread(target=watch, name="rss", daemon=True)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return max(peak, resident_bytes()) - before
