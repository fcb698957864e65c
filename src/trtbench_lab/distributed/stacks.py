"""Where each rank stands, read from the stacks that the ranks write when they are asked by a signal."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .rank import wait_for_gpu

_THREAD = re.compile(r"^(Current thread|Thread) 0x[0-9a-f]+.*:$")
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+|\?\?\?) in (?P<function>.*)$')
_SHOWN_FRAMES = 6


@dataclass(frozen=True)
class Place:
    """One frame of a stack."""

    file: str
    line: int
    function: str


def places_from_dump(dump: str, code_name: str) -> list[Place]:
    """Return the frames of the thread that runs the cell, outermost first and beginning with the cell's own.

    Parameters
    ----------
    dump
        What `faulthandler` wrote, most recent call first; of several dumps the last counts.
    code_name
        The file name of the cell; without a frame of it the thread that was interrupted is taken whole.
    """
    threads: list[tuple[bool, list[Place]]] = []
    for text in dump.splitlines():
        if (head := _THREAD.match(text)) is not None:
            threads.append((head.group(1) == "Current thread", []))
        elif threads and (frame := _FRAME.match(text)) is not None:
            line = frame.group("line")
            place = Place(frame.group("file"), int(line) if line.isdigit() else 0, frame.group("function"))
            threads[-1][1].append(place)
    for _, frames in reversed(threads):
        outermost_first = frames[::-1]
        inside = [index for index, place in enumerate(outermost_first) if place.file == code_name]
        if inside:
            return outermost_first[inside[0] :]
    current = [frames[::-1] for is_current, frames in threads if is_current]
    return current[-1] if current else []


def text_from_places(places: list[Place], cell: str, code_name: str) -> str:
    """Return where a rank stands, as lines: the cell's own with their text, the innermost last."""
    if not places:
        return "  no Python code was running"
    if any(place.function == wait_for_gpu.__name__ for place in places):
        return "  at the end of the cell, waiting for what the cell has queued on its GPU"
    source = cell.splitlines()
    while source and not source[0].strip():  # IPython runs a cell without its first empty lines
        del source[0]
    shown = places if len(places) <= _SHOWN_FRAMES else [places[0], *places[1 - _SHOWN_FRAMES :]]
    lines = []
    for place in shown:
        if place.file == code_name:
            text = source[place.line - 1].strip() if 0 < place.line <= len(source) else ""
            lines.append(f"  line {place.line} of the cell: {text}")
        else:
            lines.append(f"    {place.function} ({place.file}:{place.line})")
    return "\n".join(lines)
