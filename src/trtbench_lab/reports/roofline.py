"""The roofline: each layer's rate over its arithmetic a byte, under what the machine reaches at most."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ..explore.layer import Layer
from ..explore.result import ExploreResult
from ..results import Table
from .figure import axis, described, empty_figure, escaped, new_figure
from .layer_kinds import EVERYTHING_ELSE, KIND_COLOURS, colour_of, shown_kind, subtitle_of
from .theme import REFERENCE, plotly_graph_objects

if TYPE_CHECKING:
    import plotly.graph_objects as go


def roofline(result: ExploreResult, *, theme: str = "auto") -> go.Figure:
    """Each layer's rate of arithmetic over its arithmetic a byte, under what the machine reaches at most."""
    title = "Roofline"
    points = [
        layer for layer in result.layers if layer.time_ms and layer.flops and layer.moved_bytes and layer.flops > 0
    ]
    if not points:
        return empty_figure(title, [result], "Times and sizes of the layers are needed for this figure.", theme=theme)
    figure = new_figure(title, subtitle_of(result), theme=theme, height=520)
    go = plotly_graph_objects()
    intensity = {layer.name: (layer.flops or 0) / (layer.moved_bytes or 1) for layer in points}
    rate = {layer.name: (layer.flops or 0) / (layer.time_ms or 1.0) / 1e6 for layer in points}  # GFLOP/s
    longest = max(layer.time_ms or 0.0 for layer in points)
    members: dict[str, list[Layer]] = defaultdict(list)
    for layer in points:
        members[shown_kind(layer.kind)].append(layer)
    for kind in [kind for kind in (*KIND_COLOURS, EVERYTHING_ELSE) if kind in members]:
        chosen = members[kind]
        figure.add_trace(
            go.Scatter(
                x=[intensity[layer.name] for layer in chosen],
                y=[rate[layer.name] for layer in chosen],
                mode="markers",
                name=kind,
                marker={"color": colour_of(kind), "size": _sizes(chosen, longest), "opacity": 0.75},
                text=[escaped(layer.name) for layer in chosen],
                customdata=[[layer.time_ms, _limit_share(layer, result)] for layer in chosen],
                hovertemplate="%{text}<br>%{x:.3g} FLOP/byte, %{y:.4g} GFLOP/s<br>%{customdata[0]:.4g} ms"
                "<br>%{customdata[1]}<extra>" + kind + "</extra>",
            )
        )
    _add_ceilings(figure, result, min(intensity.values()), max(intensity.values()))
    figure.update_layout(
        xaxis=axis("floating-point operations a byte moved", type="log", dtick=1),
        yaxis=axis("GFLOP/s", type="log", dtick=1, exponentformat="power"),
        showlegend=True,
        margin={"b": 90},
    )
    ceilings = result.ceilings
    caption = "A point a layer, larger for more time. " + (
        f"Lines are what this machine reaches ({ceilings.source}): on the slope a layer is bound by reading, on "
        "the flat by "
        "arithmetic. Bytes are the least that must move; layers whose data stays in the processor's cache may "
        "lie above the slope."
        if ceilings.read_bytes_per_s
        else "The machine's ceilings are not known for this source; --ceilings GB/S TFLOP/S draws them."
    )
    rows = [
        (layer.name, intensity[layer.name], rate[layer.name], layer.time_ms, _limit_share(layer, result))
        for layer in points
    ]
    columns = ("layer", "FLOP a byte", "GFLOP/s", "time (ms)", "of its ceiling")
    return described(figure, caption, Table(columns, rows))


def _add_ceilings(figure: go.Figure, result: ExploreResult, low: float, high: float) -> None:
    read, flops = result.ceilings.read_bytes_per_s, result.ceilings.flops_per_s
    if not read or not flops:
        return
    ridge = flops / read
    go = plotly_graph_objects()
    xs = [low / 2, ridge, max(high, ridge) * 2]
    ys = [x * read / 1e9 for x in xs[:2]] + [flops / 1e9]
    figure.add_trace(
        go.Scatter(
            x=xs,
            y=ys,
            mode="lines",
            name="ceilings of this machine",
            line={"color": REFERENCE, "dash": "dash", "width": 2},
            hoverinfo="skip",
        )
    )


def _limit_share(layer: Layer, result: ExploreResult) -> str:
    """Return how near a layer comes to the ceiling at its place: ``"62 % of the read rate"``."""
    read, flops = result.ceilings.read_bytes_per_s, result.ceilings.flops_per_s
    if not read or not flops or not layer.time_ms or not layer.moved_bytes or not layer.flops:
        return ""
    by_reading, by_arithmetic = layer.moved_bytes / read * 1e3, layer.flops / flops * 1e3
    bound = "read rate" if by_reading >= by_arithmetic else "arithmetic rate"
    return f"{100 * max(by_reading, by_arithmetic) / layer.time_ms:.0f} % of the {bound}"


def _sizes(layers: list[Layer], longest: float) -> list[float]:
    """Return diameters whose circles' areas grow with time; the shortest can still be hit by a pointer."""
    return [7 + 19 * ((layer.time_ms or 0.0) / longest) ** 0.5 for layer in layers]
