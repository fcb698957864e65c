"""One line of text for a progress event, for every face that shows progress."""

from __future__ import annotations

from .progress import ProgressEvent

_UNITS = ("B", "kB", "MB", "GB", "TB")


def text_from_event(event: ProgressEvent) -> str:
    """Return ``"write rank 0 · 12 of 48 tensors · 3.2 s"``: what is known, and nothing that is not."""
    parts = [event.phase, _count(event), f"{event.elapsed_s:.1f} s", event.message or ""]
    if event.state == "failed":
        parts.append("failed")
    return " · ".join(part for part in parts if part)


def _count(event: ProgressEvent) -> str:
    if not event.done and event.total is None:
        return ""
    if event.unit == "B":
        total = "" if event.total is None else f" of {_bytes(event.total)}"
        return f"{_bytes(event.done)}{total}"
    total = "" if event.total is None else f" of {event.total}"
    several = event.done != 1 if event.total is None else event.total != 1
    return f"{event.done}{total} {event.unit}{'s' if several and event.unit else ''}".strip()


def _bytes(count: float) -> str:
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.0f} B" if unit == 0 else f"{count:.1f} {_UNITS[unit]}"
