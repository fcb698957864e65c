"""Several stored results side by side: how many times as much as the first, by metric, better and worse in colour."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from ..results import Comparison, Table, metric_of
from ..results.comparison import ComparedMetric
from ..results.metric import HIGHER, NEITHER
from ..results.render import format_value
from .figure import axis, described, escaped
from .theme import BETTER, REFERENCE, WORSE, plotly_graph_objects, template

if TYPE_CHECKING:
    import plotly.graph_objects as go

MAX_METRICS = 24
_POINT = re.compile(r"\bb(\d+)_i(\d+)_o(\d+)")  # a benchmark's configuration, as in its flat names


def comparison_view(comparison: Comparison, *, theme: str = "auto") -> go.Figure:
    """Dots of each metric's ratio to the first result, on a logarithmic axis: ×2 and ×0.5 are equally far from ×1.

    Green is better than the first, vermillion worse, grey has no better direction; the shape of the dot tells the
    results apart. Metrics without a ratio (missing, or a true zero in the first) are in the table only.
    """
    go = plotly_graph_objects()
    shown = [metric for metric in comparison.metrics if any(ratio is not None for ratio in metric.ratios[1:])]
    rest = len(shown) - MAX_METRICS
    shown = shown[:MAX_METRICS]
    figure = go.Figure()
    symbols = ("circle", "diamond", "square", "triangle-up", "cross", "star")
    names = [_name(metric) for metric in shown]
    for i, label in enumerate(comparison.labels[1:], start=1):
        ratios = [metric.ratios[i] for metric in shown]
        figure.add_trace(
            go.Scatter(
                x=[ratio if ratio and ratio > 0 else None for ratio in ratios],
                y=names,
                mode="markers",
                name=escaped(label),
                marker={
                    "symbol": symbols[(i - 1) % len(symbols)],
                    "size": 11,
                    "color": [_colour(metric, ratio) for metric, ratio in zip(shown, ratios, strict=True)],
                },
                customdata=[
                    [format_value(metric.values[0]), format_value(metric.values[i]), metric.unit] for metric in shown
                ],
                hovertemplate="%{y}: ×%{x:.3g}<br>%{customdata[0]} → %{customdata[1]} %{customdata[2]}<extra>"
                + escaped(label)
                + "</extra>",
            )
        )
    present = [r for metric in shown for r in metric.ratios[1:] if r]
    reach = max((abs(math.log10(abs(r))) for r in present), default=0.1)
    reach = max(reach * 1.15, 0.1)
    figure.update_layout(
        template=template(theme),
        title={
            "text": f"Against {escaped(comparison.labels[0])}",
            "subtitle": {"text": escaped(" · ".join(comparison.labels[1:]))},
        },
        height=150 + 26 * max(len(shown), 1),
        xaxis=axis(
            f"times {escaped(comparison.labels[0])}",
            type="log",
            range=[-reach, reach],
            tickvals=_ticks(reach),
            ticktext=[f"×{tick:.2g}" for tick in _ticks(reach)],
            tickangle=0,
        ),
        yaxis={"autorange": "reversed", "type": "category"},
        shapes=[{"type": "line", "x0": 1, "x1": 1, "yref": "paper", "y0": 0, "y1": 1, "line": {"width": 1.5}}],
        showlegend=len(comparison.labels) > 2,
    )
    caption = "Green: better than the first; vermillion: worse; grey: neither direction is better."
    if rest > 0:
        caption += f" {rest} more metrics are in the comparison's table."
    rows = [(metric.name, metric.unit, *metric.values) for metric in comparison.metrics]
    return described(figure, caption, Table(("metric", "unit", *comparison.labels), rows), min_width_px=680)


def _name(metric: ComparedMetric) -> str:
    known = metric_of(metric.name)
    prefix = metric.name.rsplit(".", 1)[0] + " · " if "." in metric.name else ""
    prefix = _POINT.sub(r"batch \1, \2 in, \3 out", prefix)
    bare = metric.name.rsplit(".", 1)[-1]
    statistic = bare[len(known.tag) :].strip("_") if known and bare.startswith(known.tag) else ""
    title = known.title if known and bare.startswith(known.tag) else bare
    return escaped(f"{prefix}{title}" + (f", {statistic}" if statistic else ""))


def _colour(metric: ComparedMetric, ratio: float | None) -> str:
    if metric.direction == NEITHER or ratio is None or ratio == 1:
        return REFERENCE
    return BETTER if (ratio > 1) == (metric.direction == HIGHER) else WORSE


def _ticks(reach: float) -> list[float]:
    """Ratios worth a label within 10^±reach."""
    kept: list[float] = []
    for step in (1000, 100, 50, 20, 10, 5, 4, 3, 2, 1.5, 1.25, 1.1):
        room = math.log10(kept[-1] / step) if kept else reach
        # Labels need about a ninth of the axis each, and the one at ×1 its own.
        if math.log10(step) <= reach and min(room, math.log10(step)) >= reach * 2 / 9:
            kept.append(step)
    return sorted([*(1 / step for step in kept), 1.0, *kept])
