"""Figures of an engine's layers: time by module and type, precision, memory, roofline; two engines compared."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ..explore.layer import Layer
from ..explore.result import ExplorationPair, ExploreResult, grouped
from ..network.node_names import layer_number, module_group
from ..results import Table
from ..results.render import format_value
from .figure import axis, described, empty_figure, escaped, new_figure, scaled_bytes
from .layer_kinds import EVERYTHING_ELSE, KIND_COLOURS, colour_of, shown_kind, subtitle_of
from .roofline import roofline
from .theme import OKABE_ITO, REFERENCE, colours, plotly_graph_objects

if TYPE_CHECKING:
    import plotly.graph_objects as go

_ROW_PX = 26
_MOST_ROWS = 40
_PRECISIONS = ("float32", "tfloat32", "float16", "bfloat16", "float8_e4m3fn", "int8", "int4", "float4_e2m1", "other")
_PRECISION_COLOURS = dict(
    zip(
        _PRECISIONS,
        ("#D55E00", "#E69F00", "#0072B2", "#56B4E9", "#009E73", "#CC79A7", "#8C4FA3", "#5B6472", REFERENCE),
        strict=True,
    )
)


def figures_of_exploration(result: ExploreResult, *, theme: str = "auto") -> list[go.Figure]:
    """Return every figure that an exploration has numbers for."""
    figures = []
    if result.total_ms is not None:
        figures += [time_by_module(result, theme=theme), time_by_type(result, theme=theme)]
    figures.append(precision_map(result, theme=theme))
    figures.append(memory_by_module(result, theme=theme))
    if result.total_ms is not None:
        figures.append(roofline(result, theme=theme))
    return figures


def time_by_module(result: ExploreResult, *, theme: str = "auto") -> go.Figure:
    """Bars of the time in each part of the model, the same part of all decoder layers together, coloured by work."""
    title = "Time by module"
    groups = [group for group in result.by_group() if group.time_ms]
    if not groups:
        return empty_figure(title, [result], "No times were recorded: run the engine with --profile.", theme=theme)
    shown = _largest([group.name for group in groups], {group.name: group.time_ms or 0.0 for group in groups})
    figure = new_figure(title, subtitle_of(result), theme=theme, height=150 + _ROW_PX * len(shown))
    go = plotly_graph_objects()
    times: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for layer in result.layers:
        times[shown_kind(layer.kind)][module_group(layer.module)] += layer.time_ms or 0.0
    total = result.total_ms or 1.0
    for kind in [kind for kind in (*KIND_COLOURS, EVERYTHING_ELSE) if kind in times]:
        values = [times[kind].get(name, 0.0) for name in shown]
        figure.add_trace(
            go.Bar(
                y=[escaped(name) for name in shown],
                x=values,
                orientation="h",
                name=kind,
                marker={"color": colour_of(kind)},
                customdata=[100 * value / total for value in values],
                hovertemplate="%{y}<br>%{x:.4g} ms, %{customdata:.1f} %<extra>" + kind + "</extra>",
            )
        )
    figure.update_layout(
        barmode="stack",
        xaxis=axis("time of a run (ms)", rangemode="tozero"),
        yaxis={"autorange": "reversed", "gridcolor": "rgba(0,0,0,0)"},
        showlegend=True,
        margin={"b": 90},
    )
    rows = [(group.name, group.layers, group.time_ms, 100 * (group.time_ms or 0.0) / total) for group in groups]
    caption = (
        f"Median times of the layers, added up: {format_value(total)} ms. * stands for every decoder layer. "
        f"{_clock(result)}"
    )
    return described(figure, caption, Table(("module", "layers", "time (ms)", "share (%)"), rows))


def time_by_type(result: ExploreResult, *, theme: str = "auto") -> go.Figure:
    """Bars of the time by the engine's own layer types, coloured by the sort of work."""
    title = "Time by layer type"
    groups = [group for group in grouped(result.layers, lambda layer: layer.type or "unnamed") if group.time_ms]
    if not groups:
        return empty_figure(title, [result], "No times were recorded: run the engine with --profile.", theme=theme)
    groups.sort(key=lambda group: -(group.time_ms or 0.0))
    shown, total = groups[:24], result.total_ms or 1.0
    kinds = {layer.type or "unnamed": layer.kind for layer in result.layers}
    figure = new_figure(title, subtitle_of(result), theme=theme, height=150 + _ROW_PX * len(shown))
    go = plotly_graph_objects()
    figure.add_trace(
        go.Bar(
            y=[escaped(group.name) for group in shown],
            x=[group.time_ms for group in shown],
            orientation="h",
            marker={"color": [colour_of(kinds[group.name]) for group in shown]},
            text=[f"{100 * (group.time_ms or 0.0) / total:.1f} %, {group.layers} layers" for group in shown],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{x:.4g} ms, %{text}<extra></extra>",
        )
    )
    longest = max(group.time_ms or 0.0 for group in shown)
    figure.update_layout(
        xaxis=axis("time of a run (ms)", range=[0, 1.3 * longest]),
        yaxis={"autorange": "reversed", "gridcolor": "rgba(0,0,0,0)"},
        showlegend=False,
    )
    rows = [
        (group.name, kinds[group.name], group.layers, group.time_ms, 100 * (group.time_ms or 0.0) / total)
        for group in groups
    ]
    caption = (
        "The engine's own words for its layers; colours tell the sort of work, as in the figure by module. "
        f"{_clock(result)}"
    )
    return described(figure, caption, Table(("type", "work", "layers", "time (ms)", "share (%)"), rows))


def precision_map(result: ExploreResult, *, theme: str = "auto") -> go.Figure:
    """A cell for each part of each decoder layer, coloured by the type that it holds its weights in or computes in."""
    title = "Precision map"
    cells, columns = _precisions(result)
    if not cells:
        return empty_figure(title, [result], "The source does not tell the types of its tensors.", theme=theme)
    rows = list(cells)[:_MOST_ROWS]
    figure = new_figure(title, subtitle_of(result), theme=theme, height=190 + _ROW_PX * len(rows))
    go = plotly_graph_objects()
    used = [name for name in _PRECISIONS if any(name in row.values() for row in cells.values())]
    for name in used:
        figure.add_trace(  # an entry of the legend
            go.Scatter(
                x=[None], y=[None], mode="markers", name=name,
                marker={"color": _PRECISION_COLOURS[name], "size": 11, "symbol": "square"},
            )
        )  # fmt: skip
    values = [[used.index(cells[row][column]) if column in cells[row] else None for column in columns] for row in rows]
    texts = [[cells[row].get(column, "") for column in columns] for row in rows]
    steps = len(used)
    scale = [
        [edge, _PRECISION_COLOURS[name]]
        for number, name in enumerate(used)
        for edge in (number / steps, (number + 1) / steps)
    ]
    figure.add_trace(
        go.Heatmap(
            z=values,
            x=columns,
            y=[escaped(row) for row in rows],
            text=texts,
            colorscale=scale,
            zmin=-0.5,
            zmax=steps - 0.5,
            showscale=False,
            xgap=2,
            ygap=2,
            hovertemplate="%{y}, %{x}: %{text}<extra></extra>",
        )
    )
    figure.update_layout(
        xaxis=axis("decoder layer", type="category", showgrid=False),
        yaxis={"autorange": "reversed", "showgrid": False, "type": "category"},
        showlegend=True,
        margin={"b": 96},
    )
    table = [(row, *(cells[row].get(column, "") for column in columns)) for row in rows]
    caption = (
        "The type of the weights where a layer has any, else the one it computes in. An odd cell in a row is a "
        "layer that was "
        "treated differently; 'all' is what lies outside of the decoder layers."
    )
    return described(
        figure, caption, Table(("module", *columns), table), min_width_px=min(1600, 260 + 30 * len(columns))
    )


def memory_by_module(result: ExploreResult, *, theme: str = "auto") -> go.Figure:
    """Bars of the weights, and of the activations that pass through, in each part of the model."""
    title = "Memory by module"
    groups = [group for group in result.by_group() if group.weights_bytes or group.activation_bytes]
    if not groups:
        return empty_figure(title, [result], "The source does not tell the sizes of its tensors.", theme=theme)
    sizes = {group.name: float(group.weights_bytes + group.activation_bytes) for group in groups}
    names = set(_largest([group.name for group in groups], sizes))
    shown = [group for group in groups if group.name in names]
    divisor, unit = scaled_bytes([max(group.weights_bytes, group.activation_bytes) for group in groups])
    figure = new_figure(title, subtitle_of(result), theme=theme, height=160 + 36 * len(shown))
    go = plotly_graph_objects()
    parts = (("weights", "weights_bytes", OKABE_ITO[0]), ("read and written besides", "activation_bytes", OKABE_ITO[4]))
    for label, attribute, colour in parts:
        values = [getattr(group, attribute) / divisor for group in shown]
        figure.add_trace(
            go.Bar(
                y=[escaped(group.name) for group in shown],
                x=values,
                orientation="h",
                name=label,
                marker={"color": colour},
                hovertemplate="%{y}: %{x:.4g} " + unit + "<extra>" + label + "</extra>",
            )
        )
    figure.update_layout(
        barmode="group",
        xaxis=axis(f"bytes ({unit})", rangemode="tozero"),
        yaxis={"autorange": "reversed", "gridcolor": "rgba(0,0,0,0)"},
        showlegend=True,
        margin={"b": 90},
    )
    rows = [(group.name, group.weights_bytes / divisor, group.activation_bytes / divisor) for group in groups]
    caption = (
        "Weights as the engine stores them; inputs and outputs of all layers of a part added up (caches too, "
        "which are read "
        "and written in place), so this is traffic and not what lies in memory at one moment."
    )
    return described(figure, caption, Table(("module", f"weights ({unit})", f"tensors ({unit})"), rows))


def engines_by_module(pair: ExplorationPair, *, theme: str = "auto") -> go.Figure:
    """Bars of the time in each part of the model in two engines."""
    title = "Time by module, engine against engine"
    rows = [row for row in pair.by_group() if row[1] is not None or row[2] is not None]
    if not rows:
        return empty_figure(title, [pair.first, pair.second], "Neither side has recorded times.", theme=theme)
    weight = {name: (a or 0.0) + (b or 0.0) for name, a, b in rows}
    names = set(_largest([name for name, _, _ in rows], weight))
    shown = [row for row in rows if row[0] in names]
    what = pair.first._what if pair.first._what == pair.second._what else "different steps, see the notes"
    figure = new_figure(title, what, theme=theme, height=160 + 38 * len(shown))
    go = plotly_graph_objects()
    fills = colours([pair.first.backend, pair.second.backend])
    for side, label in enumerate(pair.labels):
        figure.add_trace(
            go.Bar(
                y=[escaped(row[0]) for row in shown],
                x=[row[side + 1] for row in shown],
                orientation="h",
                name=escaped(label),
                marker={"color": fills[side]},
                hovertemplate="%{y}: %{x:.4g} ms<extra>" + escaped(label) + "</extra>",
            )
        )
    figure.update_layout(
        barmode="group",
        xaxis=axis("time of a run (ms)", rangemode="tozero"),
        yaxis={"autorange": "reversed", "gridcolor": "rgba(0,0,0,0)"},
        showlegend=True,
        margin={"b": 90},
    )
    table = [(name, a, b, b / a if a and b is not None else None) for name, a, b in rows]
    return described(
        figure,
        "Median times of the layers of a part, added up; ratios are the second over the first. " + " ".join(pair.notes),
        Table(("module", *(f"{label} (ms)" for label in pair.labels), "ratio"), table),
    )


def _precisions(result: ExploreResult) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Return module (without its layer's number) → column → type, and the columns in order."""
    heaviest: dict[tuple[str, str], Layer] = {}
    for layer in result.layers:
        if layer.module is None or layer.precision is None or layer.kind == "view":
            continue
        number = layer_number(layer.module)
        place = module_group(layer.module), "all" if number is None else str(number)
        known = heaviest.get(place)
        if known is None or (layer.weights_bytes or 0) > (known.weights_bytes or 0):
            heaviest[place] = layer
    cells: dict[str, dict[str, str]] = defaultdict(dict)
    for (row, column), layer in heaviest.items():
        cells[row][column] = layer.precision if layer.precision in _PRECISIONS else "other"
    columns = sorted(
        {column for row in cells.values() for column in row}, key=lambda c: (c == "all", int(c) if c != "all" else 0)
    )
    return dict(cells), columns


def _largest(names: list[str], weight: dict[str, float]) -> list[str]:
    """Return the names with the most weight, as many as fit a figure, in their own order."""
    kept = set(sorted(names, key=lambda name: -weight[name])[:_MOST_ROWS])
    return [name for name in names if name in kept]


def _clock(result: ExploreResult) -> str:
    return next((note for note in result.notes if note.startswith("Times ")), "")


__all__ = [
    "engines_by_module",
    "figures_of_exploration",
    "memory_by_module",
    "precision_map",
    "roofline",
    "time_by_module",
    "time_by_type",
]
