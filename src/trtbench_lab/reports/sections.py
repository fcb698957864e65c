"""What a report is made of: highlights, and sections of text, tables, results and figures, each as HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ResultsError
from ..results import Metric, Result, Table
from ..results.catalogue import metrics_named
from ..results.render import format_value, is_numeric_column
from .figure import caption_of, min_width_of, numbers_of

_LONG = 48  # characters from which a cell's text may break
_OPEN_LINES = 6  # more printed lines than this are folded too
_FOLDED_ROWS = 12  # a result's longer tables are folded, so that the page stays one to read


@dataclass(frozen=True, kw_only=True)
class Highlight:
    """One of the few numbers at the top: its label, value, unit and a short remark (with the backend's name)."""

    label: str
    value: str | int | float | None
    unit: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Code:
    """Text to be shown as it is, in a fixed-width font."""

    text: str


@dataclass(frozen=True)
class Untitled:
    """A result whose section has its title already."""

    result: Result


@dataclass(frozen=True)
class Folded:
    """A long table that a reader unfolds."""

    table: Table


@dataclass(frozen=True, kw_only=True)
class Section:
    """A titled part of a report.

    Attributes
    ----------
    items
        In order: text (a paragraph), `Code`, `Table`, `Folded`, a `Result` (its tables and the definitions of its
        metrics), a Plotly figure, or any object with a ``_repr_html_``.
    """

    title: str
    items: Sequence[Any] = ()

    @property
    def results(self) -> list[Result]:
        """The results among the items."""
        found = [item.result if isinstance(item, Untitled) else item for item in self.items]
        return [item for item in found if isinstance(item, Result)]


def highlights_html(highlights: Sequence[Highlight]) -> str:
    """Return the cards at the top."""
    if not highlights:
        return ""
    cards = []
    for item in highlights:
        value = item.value if isinstance(item.value, str) else format_value(item.value)
        unit = f'<span class="unit">{_text(item.unit)}</span>' if item.unit else ""
        note = f'<div class="note">{_text(item.note)}</div>' if item.note else ""
        cards.append(
            f'<div class="highlight"><div class="label">{_text(item.label)}</div>'
            f'<div class="value">{_text(value)}{unit}</div>{note}</div>'
        )
    return f'<div class="highlights">{"".join(cards)}</div>'


def item_html(item: Any, figure_id: str) -> str:
    """Return one item of a section.

    Raises
    ------
    ResultsError
        For an object that cannot be shown.
    """
    if isinstance(item, str):
        return f"<p>{_text(item)}</p>"
    if isinstance(item, Code):
        return f"<pre>{_text(item.text)}</pre>"
    if isinstance(item, Table):
        return table_html(item)
    if isinstance(item, Folded):
        return _folded(item.table)
    if isinstance(item, Untitled):
        return result_html(item.result, titled=False)
    if isinstance(item, Result):
        return result_html(item)
    if is_figure(item):
        return figure_html(item, figure_id)
    if callable(getattr(item, "_repr_html_", None)):
        return str(item._repr_html_())
    raise ResultsError(
        f"A {type(item).__name__} cannot stand in a report.",
        where="Section.items",
        remedy="Pass text, Code, Table, a result, a Plotly figure, or an object with _repr_html_.",
    )


def is_figure(item: Any) -> bool:
    """Whether `item` is a Plotly figure (asked without importing Plotly)."""
    return callable(getattr(item, "to_plotly_json", None)) and hasattr(item, "layout")


def table_html(table: Table) -> str:
    """Return a table with the report's classes; every cell is escaped, long text may break."""
    numeric = [is_numeric_column(table, i) for i in range(len(table.columns))]
    head = "".join(
        f'<th scope="col"{" class=num" if n else ""}>{_text(name)}</th>'
        for name, n in zip(table.columns, numeric, strict=True)
    )
    rows = []
    for row in table.rows:
        cells = []
        for value, n in zip(row, numeric, strict=True):
            text = format_value(value)
            kind = "num" if n else "long" if len(text) > _LONG or "\n" in text else "short"
            cells.append(f"<td class={kind}>{_text(text)}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    title = f'<div class="tabletitle">{_text(table.title)}</div>' if table.title else ""
    note = f'<p class="tablenote">{_text(table.note)}</p>' if table.note else ""
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'{title}<div class="scroll"><table>{body}</table></div>{note}'


def result_html(result: Result, *, titled: bool = True) -> str:
    """Return a result's tables under its title, and the definitions of its metrics to unfold."""
    lines = getattr(result, "lines", None)
    lines = lines() if callable(lines) else lines
    return (
        (f"<h3>{_text(result.title)}</h3>" if titled else "")
        + f'<div class="byline">id {_text(result.id)} · {_text(result.created_at)}</div>'
        + _lines_html(lines or [])
        + "".join(_folded(table) if len(table.rows) > _FOLDED_ROWS else table_html(table) for table in result.tables())
        + _texts_html(result)
        + definitions_html(metrics_named(result.metrics))
    )


def _lines_html(lines: Sequence[str]) -> str:
    block = f"<pre>{_text(chr(10).join(lines))}</pre>" if lines else ""
    return block if len(lines) <= _OPEN_LINES else f"<details><summary>As printed in a shell</summary>{block}</details>"


def _texts_html(result: Result) -> str:
    """Return all sides' texts of a comparison or of streams, the first differing token marked."""
    if result.kind == "streams":
        from ..evaluation.streams_html import stream_block_html

        prompts, sides = getattr(result, "prompts", ()), getattr(result, "sides", [])
        return "".join(stream_block_html(i, prompt, sides) for i, prompt in enumerate(prompts))
    if result.kind != "compare":
        return ""
    from ..evaluation.side_by_side import prompt_block_html

    return "".join(prompt_block_html(i, c, result.backend) for i, c in enumerate(getattr(result, "prompts", ())))


def _folded(table: Table) -> str:
    title = table.title or f"Table of {len(table.rows)} rows"
    return (
        f"<details><summary>{_text(title)} ({len(table.rows)} rows)</summary>"
        f"{table_html(Table(table.columns, table.rows, note=table.note))}</details>"
    )


def definitions_html(metrics: Iterable[Metric]) -> str:
    """Return what the numbers mean, folded."""
    entries = []
    for metric in metrics:
        trap = f'<dd class="trap">{_text(metric.trap)}</dd>' if metric.trap else ""
        entries.append(
            f"<dt>{_text(metric.label)}<code>{_text(metric.tag)}</code></dt>"
            f'<dd><span class="formula">{_text(metric.formula)}</span>{_text(metric.definition)}</dd>{trap}'
        )
    if not entries:
        return ""
    return (
        f'<details><summary>What these numbers mean</summary><dl class="definitions">{"".join(entries)}</dl></details>'
    )


def figure_html(figure: Any, figure_id: str) -> str:
    """Return a figure's place, caption and numbers; until it is drawn its place holds a sentence."""
    numbers = numbers_of(figure)
    table = (
        f"<details><summary>The numbers behind this figure</summary>{table_html(numbers)}</details>"
        if numbers is not None and numbers.rows
        else ""
    )
    width_px = min_width_of(figure)
    style = f' style="min-width:{width_px}px"' if width_px else ""
    return (
        f'<figure data-figure="{figure_id}"><div class="plot scroll"><div class="canvas"{style}>'
        f"{_text(_title(figure))}: this figure is drawn by a script; its numbers are below.</div></div>"
        f"<figcaption>{_text(caption_of(figure))}</figcaption>{table}</figure>"
    )


def _title(figure: Any) -> str:
    return html.unescape(str(figure.layout.title.text or "Figure"))


def _text(text: str) -> str:
    return html.escape(text)
