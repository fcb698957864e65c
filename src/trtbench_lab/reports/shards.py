"""The shard plan as figures: tensors as areas by rank, and how evenly the ranks are laden."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from ..checkpoint.plan import ShardPlan, ShardRow
from ..results import Table
from ..results.render import format_value
from .figure import axis, described, empty_figure, escaped, new_figure, scaled_bytes
from .theme import OKABE_ITO, REFERENCE, plotly_graph_objects

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Part of the model ← what its tensors' names contain; the first that fits counts.
PARTS = {
    "embedding": (("vocab_embedding", "position_embedding"), OKABE_ITO[4]),
    "attention": ((".attention.",), OKABE_ITO[0]),
    "mlp": ((".mlp.",), OKABE_ITO[2]),
    "head": (("lm_head",), OKABE_ITO[1]),
    "norm and others": ((), REFERENCE),
}


_FRAME = "#5B6472"  # of ranks and layers
_DARK_INK, _DARK_LUMINANCE = "#10141A", 0.007


def part_of(row: ShardRow) -> str:
    """Return the part of the model that a tensor belongs to."""
    for part, (marks, _) in PARTS.items():
        if any(mark in row.tensor for mark in marks):
            return part
    return "norm and others"


def shard_treemap(plan: ShardPlan, *, contains: str = "", theme: str = "auto") -> go.Figure:
    """Areas in proportion to bytes: rank, then layer, then tensor; a click goes a level in.

    Parameters
    ----------
    plan
        From `checkpoint.plan.shard_plan`.
    contains
        Only tensors whose name contains this.
    """
    rows = [row for row in plan.rows if contains in row.tensor]
    title = f"Shard plan: {plan.architecture}, tp {plan.tp_size} × pp {plan.pp_size}"
    if not rows:
        return empty_figure(title, [], f"No tensor's name contains {contains!r}.", theme=theme)
    figure = new_figure(title, _subtitle(plan, rows, contains), theme=theme, height=520)
    nodes = _Nodes()
    for row in rows:
        rank = nodes.child("", f"rank {row.rank}", _FRAME, row.bytes, f"stage {row.pp_rank}, tp rank {row.tp_rank}")
        colour = PARTS[part_of(row)][1]
        if row.layer is None:
            group = rank
        else:
            group = nodes.child(rank, f"layer {row.layer}", _FRAME, row.bytes, "")
        name = re.sub(r"^transformer\.(layers\.\d+\.)?", "", row.tensor)  # a stage counts its layers from 0
        nodes.child(group, name, colour, row.bytes, f"{_shape(row.shape)}, {row.dtype}, {_split(row)}")
    go = plotly_graph_objects()
    figure.add_trace(
        go.Treemap(
            ids=nodes.ids,
            labels=nodes.labels,
            parents=nodes.parents,
            values=nodes.values,
            branchvalues="total",
            maxdepth=3,  # thousands of tensors at once would be neither drawn quickly nor read
            marker={"colors": nodes.colours, "line": {"width": 1, "color": "rgba(255,255,255,.55)"}, "cornerradius": 3},
            text=nodes.texts,
            customdata=[_size(value) for value in nodes.values],
            texttemplate="%{label}<br>%{customdata}",
            textfont={"color": [_ink(colour) for colour in nodes.colours], "size": 12},
            hovertemplate="<b>%{label}</b><br>%{customdata}, %{percentParent:.1%} of its parent<br>%{text}"
            "<extra></extra>",
            tiling={"pad": 2},
            pathbar={"visible": True, "thickness": 22},
        )
    )
    # Words that would have to be smaller than 9 pixels are left out: the area's name stands in its tooltip.
    figure.update_layout(margin={"l": 8, "r": 8, "t": 92, "b": 8}, uniformtext={"minsize": 9, "mode": "hide"})
    caption = (
        "An area is a tensor's bytes in its rank's file; a click goes into a rank or layer, the bar above leads back. "
        "Blue: attention, green: mlp, orange: embedding, vermillion: head, grey: norms and what is shared."
    )
    return described(figure, caption, shard_table(rows), min_width_px=640)


def shard_balance(plan: ShardPlan, *, contains: str = "", theme: str = "auto") -> go.Figure:
    """Bars of the bytes of each rank, by part of the model: whether the ranks are laden evenly."""
    rows = [row for row in plan.rows if contains in row.tensor]
    if not rows:
        return empty_figure("Bytes by rank", [], f"No tensor's name contains {contains!r}.", theme=theme)
    totals: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        totals[part_of(row)][row.rank] += row.bytes
    by_rank = [sum(part[rank] for part in totals.values()) for rank in range(plan.world_size)]
    divisor, unit = scaled_bytes(by_rank)
    labels = [_rank_label(plan, rank) for rank in range(plan.world_size)]
    figure = new_figure(
        "Bytes by rank", _subtitle(plan, rows, contains), theme=theme, height=170 + 34 * plan.world_size
    )
    go = plotly_graph_objects()
    for part in (part for part in PARTS if part in totals):
        values = [totals[part][rank] / divisor for rank in range(plan.world_size)]
        figure.add_trace(
            go.Bar(
                y=labels,
                x=values,
                orientation="h",
                name=part,
                marker={"color": PARTS[part][1]},
                hovertemplate="%{y}: %{x:.2f} " + unit + "<extra>" + part + "</extra>",
            )
        )
    figure.update_layout(
        barmode="stack",
        xaxis=axis(f"bytes ({unit})", rangemode="tozero"),
        yaxis={"autorange": "reversed", "gridcolor": "rgba(0,0,0,0)"},
        showlegend=True,
        legend={"traceorder": "normal"},
        annotations=[
            {
                "x": total / divisor,
                "y": label,
                "text": f" {_size(total)}",
                "showarrow": False,
                "xanchor": "left",
            }
            for label, total in zip(labels, by_rank, strict=True)
        ],
        margin={"r": 96, "b": 90},
    )
    most, least = max(by_rank, default=0), min(by_rank, default=0)
    spread = 100 * (most - least) / most if most else 0.0
    caption = (
        f"The largest rank holds {_size(most)}, the smallest {_size(least)} ({spread:.1f} % less). Weights only: the "
        "key/value cache and activations come on top."
    )
    columns = ("rank", *(f"{part} ({unit})" for part in totals), f"all ({unit})")
    table = [
        (label, *(totals[part][rank] / divisor for part in totals), by_rank[rank] / divisor)
        for rank, label in enumerate(labels)
    ]
    return described(figure, caption, Table(columns, table), min_width_px=520)


def _ink(colour: str) -> str:
    """Return black-ish or white words for a ground, whichever stands out more: at least 4.5:1 on this palette."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return _DARK_INK if (luminance + 0.05) / (_DARK_LUMINANCE + 0.05) > 1.05 / (luminance + 0.05) else "#FFFFFF"


def shard_table(rows: list[ShardRow]) -> Table:
    """Return which rank gets what, a row a tensor of a rank."""
    cells = [
        (row.rank, row.pp_rank, row.tensor, row.split, _shape(row.shape), _shape(row.whole_shape), row.dtype, row.bytes)
        for row in rows
    ]
    return Table(("rank", "stage", "tensor", "split", "shape", "of", "dtype", "bytes"), cells)


class _Nodes:
    """The tree of a treemap as Plotly takes it: parallel lists, sizes of inner nodes summed up."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.labels: list[str] = []
        self.parents: list[str] = []
        self.colours: list[str] = []
        self.values: list[int] = []
        self.texts: list[str] = []
        self._index: dict[str, int] = {}

    def child(self, parent: str, label: str, colour: str, size: int, text: str) -> str:
        """Add `size` to a node, making it when it is not there yet; returns its id."""
        node = f"{parent}/{label}" if parent else label
        if node in self._index:
            self.values[self._index[node]] += size
            return node
        self._index[node] = len(self.ids)
        self.ids.append(node)
        self.labels.append(escaped(label))
        self.parents.append(parent)
        self.colours.append(colour)
        self.values.append(size)
        self.texts.append(escaped(text))
        return node


def _subtitle(plan: ShardPlan, rows: list[ShardRow], contains: str) -> str:
    total = _size(sum(row.bytes for row in rows))
    which = f"tensors with {contains!r}" if contains else "all tensors"
    return f"{which}: {total} over {plan.world_size} rank(s)"


def _rank_label(plan: ShardPlan, rank: int) -> str:
    stage = next((row.pp_rank for row in plan.rows if row.rank == rank), 0)
    return f"rank {rank}" if plan.pp_size == 1 else f"rank {rank}, stage {stage}"


def _split(row: ShardRow) -> str:
    if row.split == "whole":
        return "whole on every rank of its stage"
    return f"split by {row.split} of {_shape(row.whole_shape)}"


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(str(extent) for extent in shape)


def _size(count: int) -> str:
    divisor, unit = scaled_bytes([count])
    return f"{format_value(count / divisor)} {unit}"
