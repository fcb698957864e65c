"""Tables as aligned text and as self-contained HTML that reads well on light and dark pages."""

from __future__ import annotations

import html
import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .fitted import fitted_columns, fitted_lines, fitted_text

# Inherited colours and half-transparent lines are right on any background, and inline there is no stylesheet to lose.
_LINE = "1px solid rgba(127,127,127,.35)"
_PLAIN = "background:transparent;color:inherit;"
_CELL = f"padding:3px 14px 3px 0;border:0;border-bottom:{_LINE};vertical-align:top;{_PLAIN}"
_NARROW = "white-space:nowrap;"
_BROKEN = "white-space:pre-wrap;overflow-wrap:anywhere;min-width:24em;max-width:60em;"
_LONG = 60  # characters from which a cell's text may break, in HTML
_WIDEST = 100  # characters of the widest column in plain text
_WIDEST_SCREEN = 200  # columns of a terminal that a table uses
_MUTED = "opacity:.68;"


@dataclass(frozen=True)
class Table:
    """A titled table of plain values.

    Attributes
    ----------
    columns
        Headings, unit included: ``"latency (ms)"``.
    rows
        Cells: numbers are right-aligned and rounded to 4 significant digits, None shows as ``n/a``.
    title, note
        A line above and one below, or None.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str | None = None
    note: str | None = None

    @classmethod
    def of_metrics(cls, metrics: Mapping[str, Any], title: str | None = None) -> Table:
        """Return a two-column table of a flat metrics view."""
        return cls(columns=("metric", "value"), rows=[(name, value) for name, value in metrics.items()], title=title)


def format_value(value: Any) -> str:
    """Return a cell's text: 4 significant digits for fractions, thousands separated in counts, ``n/a`` for None."""
    if value is None:
        return "n/a"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        if value == 0:
            return "0"
        magnitude = math.floor(math.log10(abs(value)))
        if -4 <= magnitude < 12:
            return f"{value:,.{max(0, 3 - magnitude)}f}"
        return f"{value:.3e}"
    if isinstance(value, list | tuple):
        return ", ".join(format_value(item) for item in value)
    return str(value)


def plain_table(table: Table) -> str:
    """Return a table as aligned text, fitted to a screen inside `fitted_to`."""
    columns = fitted_columns()
    if columns is not None:
        return _fitted_table(table, columns)
    rows = [[_broken(format_value(cell)) for cell in row] for row in table.rows]
    numeric = [is_numeric_column(table, i) for i in range(len(table.columns))]
    widths = [max([len(name), *(len(part) for row in rows for part in row[i])]) for i, name in enumerate(table.columns)]

    def line(parts: Sequence[str]) -> str:
        aligned = (p.rjust(w) if n else p.ljust(w) for p, w, n in zip(parts, widths, numeric, strict=True))
        return "  ".join(aligned).rstrip()

    lines = [table.title] if table.title else []
    lines += [line(table.columns), line(["─" * w for w in widths])]
    lines += [line(parts) for row in rows for parts in itertools.zip_longest(*row, fillvalue="")]
    if table.note:
        lines.append(table.note)
    return "\n".join(lines)


def _fitted_table(table: Table, columns: int) -> str:
    cells = [[format_value(cell) for cell in row] for row in table.rows]
    numeric = [is_numeric_column(table, i) for i in range(len(table.columns))]
    lines = [fitted_text(table.title, columns)] if table.title else []
    lines += fitted_lines(table.columns, cells, numeric, min(columns, _WIDEST_SCREEN))
    if table.note:
        lines.append(fitted_text(table.note, min(columns, _WIDEST)))
    return "\n".join(lines)


def html_table(table: Table) -> str:
    """Return a table as HTML; every cell is escaped."""
    numeric = [is_numeric_column(table, i) for i in range(len(table.columns))]
    align = ["text-align:right;font-variant-numeric:tabular-nums;" if n else "text-align:left;" for n in numeric]
    head = "".join(
        f'<th scope="col" style="{_CELL}{_NARROW}{a}font-weight:600;">{html.escape(name)}</th>'
        for name, a in zip(table.columns, align, strict=True)
    )
    body = "".join(
        '<tr style="background:transparent;">'
        + "".join(_html_cell(format_value(cell), a) for cell, a in zip(row, align, strict=True))
        + "</tr>"
        for row in table.rows
    )
    title = f'<div style="font-weight:600;margin:10px 0 2px;">{html.escape(table.title)}</div>' if table.title else ""
    note = f'<div style="{_MUTED}font-size:.9em;margin:3px 0 0;">{html.escape(table.note)}</div>' if table.note else ""
    return (
        f'{title}<div style="overflow-x:auto;"><table style="border-collapse:collapse;border:0;margin:0;{_PLAIN}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}"
    )


def plain_document(title: str, byline: str, tables: Sequence[Table]) -> str:
    """Return title, byline and tables as text."""
    columns = fitted_columns()
    head = [fitted_text(part, columns) if columns else part for part in (title, byline) if part]
    return "\n\n".join(["\n".join(head), *(plain_table(table) for table in tables)])


def html_document(title: str, byline: str, tables: Sequence[Table]) -> str:
    """Return title, byline and tables as one HTML fragment with inline style only."""
    return (
        '<div style="font-family:system-ui,sans-serif;font-size:13px;line-height:1.45;color:inherit;">'
        f'<div style="font-weight:600;font-size:1.1em;">{html.escape(title)}</div>'
        + (f'<div style="{_MUTED}">{html.escape(byline)}</div>' if byline else "")
        + "".join(html_table(table) for table in tables)
        + "</div>"
    )


def is_numeric_column(table: Table, column: int) -> bool:
    """Whether a column holds numbers (and missing ones) only, so that it is aligned on the right."""
    cells = [row[column] for row in table.rows if row[column] is not None]
    return bool(cells) and all(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in cells)


def _html_cell(text: str, align: str) -> str:
    breaks = len(text) > _LONG or "\n" in text
    return f'<td style="{_CELL}{_BROKEN if breaks else _NARROW}{align}">{html.escape(text)}</td>'


def _broken(text: str) -> list[str]:
    """Return a cell's text as lines that fit a terminal."""
    lines = [part for line in text.splitlines() for part in (textwrap.wrap(line, _WIDEST) or [""])]
    return lines or [""]
