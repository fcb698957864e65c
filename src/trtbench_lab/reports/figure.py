"""What every figure has: a title that names the backend, axes with units, a caption, and its numbers as a table."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..results import Result, Table
from ..results.comparison import label_of
from ..results.render import format_value
from .theme import plotly_graph_objects, template

if TYPE_CHECKING:
    import plotly.graph_objects as go

MAX_SVG_POINTS = 4000  # of all lines of a figure: beyond that panning stutters, and WebGL draws them instead
MAX_POINTS = 2000  # a line: more would not be told apart on a screen, and SVG stays fluid


def new_figure(title: str, subtitle: str, *, theme: str = "auto", height: int = 400) -> go.Figure:
    """Return an empty figure; the backends are named in its legend or on its axis, or else in the subtitle."""
    figure = plotly_graph_objects().Figure()
    figure.update_layout(
        template=template(theme),
        title={"text": escaped(title), "subtitle": {"text": escaped(_shortened(subtitle or "several configurations"))}},
        height=height,
    )
    return figure


def names_of(results: Sequence[Result]) -> str:
    """Return the names and backends of results in one line."""
    return " · ".join(dict.fromkeys(label_of(result) for result in results))


def described(figure: go.Figure, caption: str, numbers: Table, *, min_width_px: int = 0) -> go.Figure:
    """Attach a caption and the numbers behind a figure; where it cannot be drawn, they stand in its place.

    `min_width_px` is the least width at which it can be read; a narrower page lets it scroll.
    """
    rows = [[format_value(cell) for cell in row] for row in numbers.rows]
    meta = {"caption": caption, "columns": list(numbers.columns), "rows": rows, "min_width_px": min_width_px}
    figure.update_layout(meta=meta)
    return figure


def caption_of(figure: go.Figure) -> str:
    """Return the caption that `described` attached, or the title."""
    meta = figure.layout.meta
    return str(meta["caption"]) if isinstance(meta, dict) and "caption" in meta else str(figure.layout.title.text or "")


def numbers_of(figure: go.Figure) -> Table | None:
    """Return the table that `described` attached."""
    meta = figure.layout.meta
    return Table(meta["columns"], meta["rows"]) if isinstance(meta, dict) and "columns" in meta else None


def min_width_of(figure: go.Figure) -> int:
    """Return the least width in pixels at which the figure can be read; 0 for any."""
    meta = figure.layout.meta
    return int(meta.get("min_width_px", 0)) if isinstance(meta, dict) else 0


def empty_figure(title: str, results: Sequence[Result], reason: str, *, theme: str = "auto") -> go.Figure:
    """Return a figure that says why there is nothing to draw."""
    figure = new_figure(title, names_of(results), theme=theme, height=200)
    figure.update_layout(
        xaxis={"visible": False},
        yaxis={"visible": False},
        annotations=[
            {"text": escaped(reason), "showarrow": False, "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5}
        ],
    )
    return described(figure, reason, Table(("",), []))


def escaped(text: str) -> str:
    """Return text that Plotly shows as it is: it reads some HTML tags in labels."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def evenly(count: int, limit: int = MAX_POINTS) -> list[int]:
    """Return at most `limit` indexes spread evenly over ``range(count)``, the first and the last among them."""
    if count <= limit:
        return list(range(count))
    return [round(i * (count - 1) / (limit - 1)) for i in range(limit)]


def buckets(count: int, limit: int = MAX_POINTS) -> list[range]:
    """Return ``range(count)`` cut into at most `limit` pieces of nearly equal length."""
    pieces = min(count, limit)
    edges = [round(i * count / pieces) for i in range(pieces + 1)] if pieces else [0]
    return [range(a, b) for a, b in itertools.pairwise(edges)]


def scaled_bytes(values: Sequence[float | None]) -> tuple[float, str]:
    """Return divisor and unit in which byte counts read well: KiB, MiB or GiB."""
    largest = max((value for value in values if value is not None), default=0)
    for power, unit in ((3, "GiB"), (2, "MiB")):
        if largest >= 1024**power:
            return float(1024**power), unit
    return 1024.0, "KiB"


def series_title(result: Result, detail: str | None = None) -> str:
    """Return a legend entry: name or model, backend, and what tells it from the same result's other series."""
    label = label_of(result)
    return escaped(f"{label} · {detail}" if detail else label)


def _shortened(text: str, limit: int = 110) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def of_run(result: Result) -> dict[str, str]:
    """Return what a trace carries so that views can tell whose it is: ``trace.meta["run"]``, the result's id."""
    return {"run": result.id}


def tag_run(figure: go.Figure, first: int, result: Result) -> None:
    """Mark the traces from number `first` on as those of a result."""
    for trace in figure.data[first:]:
        trace.meta = of_run(result)


def fluid(figure: go.Figure, limit: int = MAX_SVG_POINTS) -> go.Figure:
    """Return the figure with its lines and dots drawn by WebGL where there are too many for SVG to stay fluid.

    Areas that are filled stay as they are. A browser holds only a few WebGL contexts at a time, so small figures do
    not take one.
    """
    lines = [trace for trace in figure.data if trace.type == "scatter" and trace.fill is None]
    if sum(len(trace.x) for trace in lines if trace.x is not None) <= limit:
        return figure
    drawn = figure.to_plotly_json()
    for trace in drawn["data"]:
        if trace.get("type") == "scatter" and not trace.get("fill"):
            trace["type"] = "scattergl"
    return plotly_graph_objects().Figure(drawn)


def axis(title: str, **options: Any) -> dict[str, Any]:
    """Return an axis with its title (unit included)."""
    return {"title": {"text": title}, **options}
