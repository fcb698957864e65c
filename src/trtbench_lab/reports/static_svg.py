"""A figure as a still picture in SVG, for places that run no scripts: saved notebooks, exported pages, mail.

It knows what this project's figures are made of (lines, dots, bars, heat maps, treemaps) and draws a plain version of
them: no browser, no Kaleido, nothing to install. Where Plotly runs, Plotly draws.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .figure import caption_of
from .theme import REFERENCE, THEMES

if TYPE_CHECKING:
    import plotly.graph_objects as go

_WIDTH, _HEIGHT = 760, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 16, 62, 46
_DASHES = {"dash": "7 5", "dot": "2 4", "dashdot": "7 4 2 4", "longdash": "11 5"}
_INK = THEMES["auto"].text  # read on white and on black: a still picture does not know its page
_MAX_LEGEND = 8
_LETTER, _NUMBER = 6.6, 44  # room in pixels of a letter of 12 px, and of a number in a cell
_MAX_LINE_NAME, _MAX_ROW_NAME = 34, 56


def figure_svg(figure: go.Figure) -> str:
    """Return the figure as an SVG document with its title and a description for screen readers."""
    plain = figure.to_plotly_json()
    traces, layout = plain.get("data", []), plain.get("layout", {})
    title = html.unescape(str((layout.get("title") or {}).get("text") or "Figure"))
    under = html.unescape(str(((layout.get("title") or {}).get("subtitle") or {}).get("text") or ""))
    kinds = {trace.get("type") for trace in traces}
    if "treemap" in kinds:
        body, height = _treemap(traces[0]), _HEIGHT
    elif "heatmap" in kinds:
        body, height = _heatmap(traces)
    else:
        body, height = _axes(traces, layout)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" font-size="12" '
        f'font-family="system-ui,sans-serif" fill="{_INK}"><title>{html.escape(title)}</title>'
        f"<desc>{html.escape(caption_of(figure))}</desc>"
        f'<text x="8" y="18" font-size="15" font-weight="600">{html.escape(title)}</text>'
        f'<text x="8" y="36">{html.escape(under[:110])}</text>{body}</svg>'
    )


def figure_image(figure: go.Figure) -> str:
    """Return the still picture as an ``<img>`` whose data stands in the page itself."""
    svg = figure_svg(figure)
    alt = html.escape(f"{html.unescape(str(figure.layout.title.text or 'Figure'))}. {caption_of(figure)}")
    data = base64.b64encode(svg.encode()).decode()
    return f'<img alt="{alt}" style="max-width:100%;width:{_WIDTH}px" src="data:image/svg+xml;base64,{data}">'


def _axes(traces: list[dict[str, Any]], layout: dict[str, Any]) -> tuple[str, int]:
    """Draw lines, dots and bars over the first pair of axes that has any."""
    shown = [t for t in traces if t.get("type", "scatter") in ("scatter", "scattergl", "bar")]
    shown = [t for t in shown if (t.get("xaxis"), t.get("yaxis")) in ((None, None), ("x", "y"))]
    if not shown:
        return "", 60
    stacked = layout.get("barmode") == "stack"
    listed = any(isinstance(value, str) for t in shown for value in _list(t.get("y")))
    names = [html.unescape(str(name)) for name in _categories(shown, "y")] if listed else []
    rows = len(names)
    left = max(14 + _LETTER * min(max(map(len, names), default=0), _MAX_ROW_NAME), _LEFT)
    x = _Scale(shown, "x", layout.get("xaxis") or {}, (left, _WIDTH - _RIGHT), stacked=stacked)
    bottom = max(_HEIGHT - _BOTTOM, _TOP + rows * 26)
    y = _Scale(shown, "y", layout.get("yaxis") or {}, (bottom, _TOP), stacked=stacked)
    parts = [*x.ticks_below(bottom), *y.ticks_beside(x.start)]
    bars = [t for t in shown if t.get("type") == "bar"]
    heights: dict[Any, float] = {}
    for number, trace in enumerate(bars):
        parts += _bars(trace, x, y, number, len(bars), heights if stacked else None)
    for trace in shown:
        if trace.get("type") != "bar":
            parts += _line(trace, x, y)
    named, end = _legend(shown, bottom + 44)
    return "".join([*parts, *named]), end


def _legend(traces: list[dict[str, Any]], top: float) -> tuple[list[str], int]:
    """Draw the names of traces in two columns; returns where they end."""
    named = [t for t in traces if t.get("name") and t.get("showlegend", True)][:_MAX_LEGEND]
    parts = []
    for i, trace in enumerate(named):
        at_x, at_y = 8 + (i % 2) * (_WIDTH / 2), top + 18 * (i // 2)
        name = html.escape(html.unescape(str(trace["name"]))[:54])
        parts.append(f'<rect x="{at_x:.0f}" y="{at_y:.0f}" width="12" height="8" fill="{_colour(trace)}"/>')
        parts.append(f'<text x="{at_x + 18:.0f}" y="{at_y + 9:.0f}">{name}</text>')
    return parts, int(top + 18 * math.ceil(len(named) / 2) + 6)


class _Scale:
    """One axis: from a value to its place in pixels, linear, logarithmic or by category."""

    def __init__(
        self,
        traces: list[dict[str, Any]],
        letter: str,
        axis: dict[str, Any],
        ends: tuple[float, float],
        *,
        stacked: bool = False,
    ):
        self.given = list(zip(_list(axis.get("tickvals")), _list(axis.get("ticktext")), strict=False))
        self.start, self.end = ends
        values = [v for t in traces for v in _list(t.get(letter)) if v is not None]
        self.title = html.unescape(str((axis.get("title") or {}).get("text") or ""))
        self.categories = _categories(traces, letter) if any(isinstance(v, str) for v in values) else None
        self.log = axis.get("type") == "log"
        self.flipped = axis.get("autorange") == "reversed"
        numbers = [self._of(float(v)) for v in values if not isinstance(v, str) and (not self.log or v > 0)]
        bars = [t for t in traces if t.get("type") == "bar"]
        along = "x" if any(t.get("orientation") == "h" for t in bars) else "y"
        if stacked and letter == along:
            across = "y" if along == "x" else "x"
            totals: dict[Any, float] = {}
            for trace in bars:
                for name, value in zip(_list(trace.get(across)), _list(trace.get(along)), strict=False):
                    totals[name] = totals.get(name, 0.0) + (value or 0.0)
            numbers += list(totals.values())
        from_zero = not self.log and (axis.get("rangemode") == "tozero" or (bool(bars) and letter == along))
        if from_zero:
            numbers.append(0.0)
        low, high = min(numbers, default=0.0), max(numbers, default=1.0)
        room = (high - low) or 1.0
        # Numbers of lying bars stand at their ends and need room there; dots must not be cut by the frame.
        self.low = low - (0.0 if from_zero and low == 0 else 0.04 * room)
        self.high = high + room * (0.25 if bars and letter == "x" else 0.06)

    def __call__(self, value: Any) -> float | None:
        if value is None:
            return None
        if self.categories is not None:
            step = (self.end - self.start) / len(self.categories)
            place = self.categories.index(value)
            # Categories stand in order from the upper left; the vertical axis runs from below.
            upwards = self.start > self.end
            return (self.end - step * (place + 0.5)) if upwards else self.start + step * (place + 0.5)
        share = (self._of(float(value)) - self.low) / ((self.high - self.low) or 1.0)
        return self.start + (1 - share if self.flipped else share) * (self.end - self.start)

    @property
    def step(self) -> float:
        """Room of one category in pixels."""
        return abs(self.end - self.start) / max(len(self.categories or [0]), 1)

    def ticks(self) -> list[tuple[float, str]]:
        if self.categories is not None:
            return [(self(name) or 0.0, html.unescape(str(name))) for name in self.categories]
        if self.given:
            inside = [(v, str(text)) for v, text in self.given if self.low <= self._of(float(v)) <= self.high]
            places = [(self(value), text) for value, text in inside]
            return [(at, text) for at, text in places if at is not None]
        span = self.high - self.low
        size = 10 ** math.floor(math.log10(span / 4)) if span > 0 else 1.0
        size *= next((m for m in (1, 2, 5) if span / (size * m) <= 6), 10)
        first = math.ceil(self.low / size)
        found = [first * size + i * size for i in range(8) if first * size + i * size <= self.high]
        return [(self(10**v if self.log else v) or 0.0, f"{10**v if self.log else v:.6g}") for v in found]

    def ticks_below(self, y: float) -> list[str]:
        parts = [f'<line x1="{self.start:.0f}" x2="{self.end:.0f}" y1="{y:.0f}" y2="{y:.0f}" stroke="{_INK}"/>']
        parts += [
            f'<text x="{at:.1f}" y="{y + 15:.0f}" text-anchor="middle">{html.escape(text)}</text>'
            for at, text in self.ticks()
        ]
        middle = (self.start + self.end) / 2
        return [
            *parts,
            f'<text x="{middle:.0f}" y="{y + 32:.0f}" text-anchor="middle">{html.escape(self.title)}</text>',
        ]

    def ticks_beside(self, x: float) -> list[str]:
        parts = []
        for at, text in self.ticks():
            if self.categories is None:
                parts.append(
                    f'<line x1="{x:.0f}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="{_INK}" '
                    'stroke-opacity=".25"/>'
                )
            parts.append(
                f'<text x="{x - 6:.0f}" y="{at + 4:.1f}" text-anchor="end">{html.escape(text[:_MAX_ROW_NAME])}</text>'
            )
        return [*parts, f'<text x="8" y="{_TOP - 10}">{html.escape(self.title)}</text>']

    def _of(self, value: float) -> float:
        return math.log10(value) if self.log else value


def _line(trace: dict[str, Any], x: _Scale, y: _Scale) -> list[str]:
    pairs = [(x(a), y(b)) for a, b in zip(_list(trace.get("x")), _list(trace.get("y")), strict=False)]
    colour, line = _colour(trace), trace.get("line") or {}
    mode = trace.get("mode") or "lines"
    runs: list[list[tuple[float, float]]] = [[]]
    for a, b in pairs:
        if a is None or b is None:
            runs.append([])
        else:
            if runs[-1] and line.get("shape") == "hv":
                runs[-1].append((a, runs[-1][-1][1]))
            runs[-1].append((a, b))
    parts = []
    for run in runs:
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in run)
        if trace.get("fill") and len(run) > 2:
            parts.append(f'<polygon points="{points}" fill="{trace.get("fillcolor", colour)}"/>')
        elif "lines" in mode and len(run) > 1:
            dash = f' stroke-dasharray="{_DASHES[line["dash"]]}"' if line.get("dash") in _DASHES else ""
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
    if "markers" in mode:
        dots = [(a, b) for a, b in pairs if a is not None and b is not None]
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{colour}"/>' for a, b in dots[:400]]
    return parts


def _bars(
    trace: dict[str, Any], x: _Scale, y: _Scale, number: int, count: int, heights: dict[Any, float] | None
) -> list[str]:
    sideways = trace.get("orientation") == "h"
    along, across = (x, y) if sideways else (y, x)
    names, values = (trace.get("y"), trace.get("x")) if sideways else (trace.get("x"), trace.get("y"))
    parts = []
    texts = _list(trace.get("text"))
    for i, (name, value) in enumerate(zip(_list(names), _list(values), strict=False)):
        middle = across(name)
        if value is None or middle is None:
            continue
        base = 0.0 if heights is None else heights.get(name, 0.0)
        thick = across.step * 0.7 / (1 if heights is not None else count)
        begin = middle - across.step * 0.35 + (0 if heights is not None else number * thick)
        a, b = sorted((along(base) or 0.0, along(base + value) or 0.0))
        if heights is not None:
            heights[name] = base + value
        place = (a, begin, b - a, thick) if sideways else (begin, a, thick, b - a)
        parts.append(
            '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"'.format(*place)
            + f' fill="{_colour(trace, i)}"/>'
        )
        if sideways and i < len(texts) and heights is None:
            said = html.escape(html.unescape(str(texts[i]))[:24])
            parts.append(f'<text x="{b + 4:.1f}" y="{begin + thick / 2 + 4:.1f}">{said}</text>')
    return parts


def _heatmap(traces: list[dict[str, Any]]) -> tuple[str, int]:
    trace = next(one for one in traces if one.get("type") == "heatmap")
    columns, lines, grid = _list(trace.get("x")), _list(trace.get("y")), [_list(row) for row in _list(trace.get("z"))]
    known = [v for row in grid for v in row if v is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    scale = [colour for _, colour in trace.get("colorscale") or []] or ["#3B0F70", "#FCFDBF"]
    heads, names = ([html.unescape(str(name)) for name in ends] for ends in (columns, lines))
    left = 14 + _LETTER * min(max(map(len, names), default=0), _MAX_LINE_NAME)
    wide = (_WIDTH - 10 - left) / max(len(columns), 1)
    texts = [_list(row) for row in _list(trace.get("text"))] if trace.get("texttemplate") and wide > _NUMBER else []
    # Names of wide columns are cut, of narrow ones (numbers of layers) only every so many shown.
    letters, every = (int(wide / _LETTER), 1) if wide > _NUMBER else (_MAX_LINE_NAME, math.ceil(_NUMBER / 2 / wide))
    parts = [
        f'<text x="{left + (i + 0.5) * wide:.1f}" y="{_TOP}" text-anchor="middle">{html.escape(name[:letters])}</text>'
        for i, name in enumerate(heads)
        if i % every == 0
    ]
    for j, (name, row) in enumerate(zip(names, grid, strict=True)):
        at = _TOP + 8 + 20 * j
        parts.append(
            f'<text x="{left - 6:.1f}" y="{at + 14}" text-anchor="end">{html.escape(name[:_MAX_LINE_NAME])}</text>'
        )
        for i, value in enumerate(row):
            if value is None:
                continue
            share = (value - low) / ((high - low) or 1.0)
            fill, begin = scale[round(share * (len(scale) - 1))], left + i * wide
            parts.append(f'<rect x="{begin:.1f}" y="{at}" width="{wide - 2:.1f}" height="18" fill="{fill}"/>')
            if texts:  # the scale goes from dark to light
                style = f'text-anchor="middle" font-size="11" fill="{"#fff" if share < 0.6 else "#111"}"'
                text = html.escape(str(texts[j][i]))
                parts.append(f'<text x="{begin + wide / 2 - 1:.1f}" y="{at + 13}" {style}>{text}</text>')
    named, legend = _legend(traces, _TOP + 20 * len(lines) + 16)
    return "".join([*parts, *named]), legend


def _treemap(trace: dict[str, Any]) -> str:
    """Draw ranks as columns and, in each, its groups as boxes whose heights are their bytes."""
    columns = [_list(trace[name]) for name in ("ids", "labels", "parents", "values")]
    nodes = list(zip(*columns, strict=True))
    ranks = [node for node in nodes if not node[2]]
    colours = dict(zip(_list(trace["ids"]), _list((trace.get("marker") or {}).get("colors")), strict=False))
    wide, tall = (_WIDTH - 16) / max(len(ranks), 1), _HEIGHT - _TOP - 24
    largest = max((rank[3] for rank in ranks), default=1) or 1
    parts = []
    for i, (rank, label, *_) in enumerate(ranks):
        at, height = _TOP + 18.0, 0.0
        parts.append(f'<text x="{8 + i * wide:.1f}" y="{_TOP + 10}">{html.escape(html.unescape(str(label)))}</text>')
        for node, name, _, value in (n for n in nodes if n[2] == rank):
            height = tall * value / largest
            parts.append(
                f'<rect x="{8 + i * wide:.1f}" y="{at:.1f}" width="{wide - 4:.1f}" height="{max(height - 1, 0.5):.1f}" '
                f'fill="{colours.get(node, REFERENCE)}"/>'
            )
            if height > 14:
                text = html.escape(html.unescape(str(name))[: int(wide / 8)])
                parts.append(f'<text x="{12 + i * wide:.1f}" y="{at + 12:.1f}" fill="#fff">{text}</text>')
            at += height
    return "".join(parts)


def _categories(traces: list[dict[str, Any]], letter: str) -> list[Any]:
    return list(dict.fromkeys(v for t in traces for v in _list(t.get(letter)) if v is not None))


def _colour(trace: dict[str, Any], index: int = 0) -> str:
    for place in ("line", "marker"):
        colour = (trace.get(place) or {}).get("color")
        if isinstance(colour, str):
            return colour
        if colour is not None and len(_list(colour)):
            return str(_list(colour)[index % len(_list(colour))])
    return REFERENCE


def _list(values: Any) -> Sequence[Any]:
    if values is None:
        return []
    return values.tolist() if hasattr(values, "tolist") else list(values)
