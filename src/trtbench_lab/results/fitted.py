"""Tables on a screen of a known width: columns narrow, cells and headings break, and what is left stands below.

A result's text has one form wherever it is stored, piped or compared. Only a face that writes to a terminal says how
wide that is, with `fitted_to`, for as long as it writes.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_GAP = 2
_WORD = 14  # characters that a text column keeps for its longest word, where not all fit; longer words are cut
_ROWS_WEIGHED = 50  # rows, the headings' among them, that decide how the room is shared
_COLUMNS: ContextVar[int | None] = ContextVar("columns", default=None)


@contextmanager
def fitted_to(columns: int | None) -> Iterator[None]:
    """Fit the text of results made inside to this many columns; None leaves it at its natural width."""
    token = _COLUMNS.set(columns)
    try:
        yield
    finally:
        _COLUMNS.reset(token)


def fitted_columns() -> int | None:
    """Return the columns that text has to fit now, or None."""
    return _COLUMNS.get()


def fitted_lines(
    headings: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool], columns: int
) -> list[str]:
    """Return a table's lines, none wider than `columns` unless its numbers or its key are.

    Columns that find no room stand in a further table below, after the same leading columns, those that tell the rows
    apart.
    """
    cells = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in headings]
    least = [_least(name, column, n) for name, column, n in zip(headings, cells, numeric, strict=True)]
    lines: list[str] = []
    for block in _blocks(least, _key_length(rows), columns):
        if lines:
            lines.append("")
        natural = [max(len(part) for cell in [headings[i], *cells[i]] for part in _parts(cell)) for i in block]
        room = columns - _GAP * (len(block) - 1)
        widths = _shares(natural, [least[i] for i in block], room, [[headings[i], *cells[i]] for i in block])
        right = [numeric[i] for i in block]
        head = [textwrap.wrap(headings[i], w) or [""] for i, w in zip(block, widths, strict=True)]
        height = max(len(parts) for parts in head)
        body = [[_broken(row[i], w) for i, w in zip(block, widths, strict=True)] for row in rows]
        parts_of_lines = [
            *zip(*([""] * (height - len(parts)) + parts for parts in head), strict=True),
            tuple("─" * w for w in widths),
            *(parts for row in body for parts in itertools.zip_longest(*row, fillvalue="")),
        ]
        lines += [_line(parts, widths, right) for parts in parts_of_lines]
    return lines


def fitted_text(text: str, columns: int) -> str:
    """Return a text with its lines broken between words at `columns`."""
    return "\n".join(
        part for line in text.splitlines() for part in (textwrap.wrap(line, columns, break_on_hyphens=False) or [""])
    )


def _line(parts: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    aligned = (p.rjust(w) if r else p.ljust(w) for p, w, r in zip(parts, widths, right, strict=True))
    return (" " * _GAP).join(aligned).rstrip()


def _parts(cell: str) -> list[str]:
    return cell.splitlines() or [""]


def _broken(cell: str, width: int) -> list[str]:
    """Break a cell between words; a word that is longer than the column, after a sign that paths and names have."""
    lines: list[str] = []
    for part in _parts(cell):
        line = ""
        for word in part.split():
            if line and len(line) + 1 + len(word) <= width:
                line += f" {word}"
                continue
            lines += [line] if line else []
            *whole, line = _pieces(word, width)
            lines += whole
        lines.append(line)
    return lines


def _pieces(word: str, width: int) -> list[str]:
    pieces = []
    while len(word) > width:
        signs = [place for place in range(width // 3, width) if word[place] in "./_,:=-"]
        cut = signs[-1] + 1 if signs else width
        pieces.append(word[:cut])
        word = word[cut:]
    return [*pieces, word]


def _least(heading: str, cells: Sequence[str], numeric: bool) -> int:
    """Return the fewest columns that leave a column readable: whole numbers, short cells, words up to a length."""
    heading_word = max((len(word) for word in heading.split()), default=1)
    if numeric:
        return max([heading_word, *map(len, cells)])
    longest = max(map(len, cells), default=1)
    if longest > _WORD:
        longest = min(_WORD, max(len(word) for cell in cells for word in cell.split()))
    return max(heading_word, longest)


def _key_length(rows: Sequence[Sequence[str]]) -> int:
    """Return how many leading columns it takes to tell the rows apart; 1 where not all columns do."""
    for length in range(1, len(rows[0]) if rows else 1):
        if len({tuple(row[:length]) for row in rows}) == len(rows):
            return length
    return 1


def _blocks(least: Sequence[int], key_length: int, columns: int) -> list[list[int]]:
    """Divide the columns into tables that fit; each begins with the key."""
    if sum(least) + _GAP * (len(least) - 1) <= columns:
        return [list(range(len(least)))]
    key = list(range(key_length))
    blocks = [list(key)]
    for i in range(key_length, len(least)):
        wanted = [*blocks[-1], i]
        if len(blocks[-1]) > key_length and sum(least[j] for j in wanted) + _GAP * (len(wanted) - 1) > columns:
            blocks.append([*key, i])
        else:
            blocks[-1] = wanted
    return blocks


def _shares(natural: Sequence[int], least: Sequence[int], room: int, columns: Sequence[Sequence[str]]) -> list[int]:
    """Take columns one by one where that makes the table least taller, and from none more than it can give."""
    widths = [max(min(n, room), m) for n, m in zip(natural, least, strict=True)]
    lengths = [[len(cell) for cell in row] for row in list(zip(*columns, strict=True))[:_ROWS_WEIGHED]]

    def cost(i: int) -> tuple[int, int]:
        tried = [width - (j == i) for j, width in enumerate(widths)]
        tall = sum(max(-(-n // w) for n, w in zip(row, tried, strict=True)) for row in lengths)
        return tall, -widths[i]

    while sum(widths) > room:
        can_give = [i for i, width in enumerate(widths) if width > least[i]]
        if not can_give:
            break
        widths[min(can_give, key=cost)] -= 1
    return widths
