"""Facts and tables as aligned text and as inline HTML, for the reprs of this room."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

_LINE = "1px solid rgba(127,127,127,.35)"
_PLAIN = "background:transparent;color:inherit;"
_CELL = f"padding:2px 14px 2px 0;border:0;border-bottom:{_LINE};vertical-align:top;{_PLAIN}"


def bytes_text(count: int | float | None) -> str:
    """Return a size in binary units with three digits: ``"11.4 MiB"``."""
    if count is None:
        return "n/a"
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"


def seconds_text(seconds: float) -> str:
    """Return a duration as people say it: ``"4.2 s"``, ``"3 min 05 s"``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def plain_facts(title: str, facts: Mapping[str, Any]) -> str:
    """Return a title and one aligned line a fact; a list takes a line an item."""
    width = max((len(name) for name in facts), default=0)
    lines = [title]
    for name, value in facts.items():
        items = value if isinstance(value, list | tuple) else [value]
        lines += [f"  {(name if i == 0 else ''):<{width}}  {item}" for i, item in enumerate(items)]
    return "\n".join(lines)


def html_facts(title: str, facts: Mapping[str, Any]) -> str:
    """Return the same as HTML with inline style only; every text is escaped."""
    rows = []
    for name, value in facts.items():
        items = value if isinstance(value, list | tuple) else [value]
        cell = "<br>".join(html.escape(str(item)) for item in items)
        rows.append(
            f'<tr style="background:transparent;"><th scope="row" style="{_CELL}text-align:left;font-weight:600;'
            f'white-space:nowrap;">{html.escape(name)}</th><td style="{_CELL}text-align:left;">{cell}</td></tr>'
        )
    return _framed(title, f'<table style="border-collapse:collapse;border:0;margin:0;">{"".join(rows)}</table>')


def plain_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a title and an aligned table; numbers are aligned to the right."""
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [max([len(name), *(len(row[i]) for row in cells)]) for i, name in enumerate(columns)]
    right = _right_aligned(columns, rows)

    def line(parts: Sequence[str]) -> str:
        joined = (p.rjust(w) if r else p.ljust(w) for p, w, r in zip(parts, widths, right, strict=True))
        return ("  " + "  ".join(joined)).rstrip()

    return "\n".join([title, line(columns), line(["─" * w for w in widths]), *(line(row) for row in cells)])


def html_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return the same as HTML with inline style only; every text is escaped."""
    align = [f"text-align:{'right' if r else 'left'};" for r in _right_aligned(columns, rows)]
    head = "".join(
        f'<th scope="col" style="{_CELL}{a}font-weight:600;">{html.escape(name)}</th>'
        for name, a in zip(columns, align, strict=True)
    )
    body = "".join(
        '<tr style="background:transparent;">'
        + "".join(
            f'<td style="{_CELL}{a}white-space:nowrap;">{html.escape(_text(cell))}</td>'
            for cell, a in zip(row, align, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    table = f'<table style="border-collapse:collapse;border:0;margin:0;"><tr>{head}</tr>{body}</table>'
    return _framed(title, f'<div style="overflow-x:auto;">{table}</div>')


def _framed(title: str, body: str) -> str:
    return (
        '<div style="font-family:system-ui,sans-serif;font-size:13px;line-height:1.45;color:inherit;margin:0 0 10px;">'
        f'<div style="font-weight:600;margin:0 0 3px;">{html.escape(title)}</div>{body}</div>'
    )


def _text(cell: Any) -> str:
    if cell is None:
        return "n/a"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _right_aligned(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[bool]:
    def numeric(cell: Any) -> bool:
        return isinstance(cell, int | float) and not isinstance(cell, bool)

    return [bool(rows) and all(numeric(row[i]) for row in rows) for i in range(len(columns))]
