"""Memory of a build's processes: what they hold now, and the most they held."""

from __future__ import annotations

from contextlib import suppress


def peak_bytes_of(pid: int) -> int | None:
    """Return the most resident memory that a process ever held, mapped files included; None where it is not known.

    Read from the kernel's high-water mark (``VmHWM``), so a peak between two looks is not missed. ``ru_maxrss`` is
    no substitute: a process inherits that figure from whoever started it.
    """
    kibibytes = _number_after("VmHWM:", f"/proc/{pid}/status")
    return None if kibibytes is None else kibibytes << 10


def resident_bytes_of_tree(pid: int, *, without: int | None = None) -> int:
    """Return the resident memory of a process and its descendants, except the process `without`; 0 once it is gone."""
    import psutil

    total = 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0
    for process in processes:
        if process.pid != without:
            with suppress(psutil.Error):
                total += process.memory_info().rss
    return total


def oom_kills() -> int | None:
    """Return how many processes the kernel has killed for want of memory since it started; None if unknown."""
    return _number_after("oom_kill", "/proc/vmstat")


def _number_after(word: str, path: str) -> int | None:
    with suppress(OSError, ValueError, IndexError), open(path, encoding="ascii", errors="replace") as handle:
        for line in handle:
            if line.split(maxsplit=1)[0] == word:
                return int(line.split()[1])
    return None
