"""Bars of several metrics beside each other, one column a metric, one row a side, with ratios to the first side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..results import Table, metric_of
from ..results.render import format_value
from .figure import axis, described, escaped, new_figure
from .theme import colours, plotly_graph_objects

if TYPE_CHECKING:
    import plotly.graph_objects as go

_ROOM_FOR_TEXT = 1.55  # an axis goes so much beyond its longest bar, whose number stands to the right
_COLUMN_PX = 250


@dataclass(frozen=True)
class Panel:
    """One metric: its tag, which statistic of it (or ""), and a value for each side, None where there is none."""

    tag: str
    statistic: str
    values: Sequence[float | None]

    @property
    def heading(self) -> str:
        """Title with unit and statistic."""
        metric = metric_of(self.tag)
        label = metric.label if metric else self.tag
        return f"{label}, {self.statistic}" if self.statistic else label


def panels_figure(
    title: str,
    subtitle: str,
    labels: Sequence[str],
    backends: Sequence[str],
    panels: Sequence[Panel],
    *,
    caption: str,
    theme: str = "auto",
) -> go.Figure:
    """Return horizontal bars, a column a panel; the side named first is what the ratios are taken against."""
    figure = new_figure(title, subtitle, theme=theme, height=150 + 44 * len(labels))
    shown, fills = [escaped(label) for label in labels], colours(backends)
    for index, panel in enumerate(panels):
        _add_panel(figure, index, len(panels), panel, shown, fills)
    figure.update_layout(showlegend=False, bargap=0.35)
    better = {"lower": "less is better", "higher": "more is better", "neither": "neither way is better"}
    directions = "; ".join(
        f"{metric.title.lower()}: {better[metric.direction]}" for panel in panels if (metric := metric_of(panel.tag))
    )
    rows = [(panel.heading, *panel.values) for panel in panels]
    text = f"{caption} × is the ratio to {labels[0]} ({directions})."
    return described(figure, text, Table(("metric", *labels), rows), min_width_px=_COLUMN_PX * len(panels))


def _add_panel(figure: go.Figure, index: int, count: int, panel: Panel, labels: list[str], fills: list[str]) -> None:
    """Add one metric's horizontal bars in its own column of the figure."""
    go = plotly_graph_objects()
    suffix = "" if index == 0 else str(index + 1)
    values = list(panel.values)
    first = values[0]
    texts = []
    for i, value in enumerate(values):
        ratio = f"  ×{value / first:.2f}" if i and value is not None and first else ""
        texts.append("n/a" if value is None else f"{format_value(float(value))}{ratio}")
    figure.add_trace(
        go.Bar(
            y=labels,
            x=values,
            orientation="h",
            marker={"color": fills},
            text=texts,
            textposition="outside",
            textangle=0,
            cliponaxis=False,
            hovertemplate="%{y}: %{text}<extra>" + panel.heading + "</extra>",
            xaxis=f"x{suffix}",
            yaxis=f"y{suffix}",
        )
    )
    gap = 0.05
    width = (1 - gap * (count - 1)) / count
    start = index * (width + gap)
    figure.update_layout(
        {
            f"xaxis{suffix}": axis(
                panel.heading,
                domain=[start, start + width],
                anchor=f"y{suffix}",
                range=[0, _ROOM_FOR_TEXT * (max((v for v in values if v is not None), default=0.0) or 1.0)],
                nticks=5,
            ),
            f"yaxis{suffix}": {
                "autorange": "reversed",
                "anchor": f"x{suffix}",
                "showticklabels": index == 0,
                "gridcolor": "rgba(0,0,0,0)",
            },
        }
    )
