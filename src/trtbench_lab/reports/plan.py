"""Figures of a plan: memory against capacity, the decode step under the roofline, and the choices for a target."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..benchmark.planner.result import PlanResult
from ..results import Table
from .figure import axis, described, empty_figure, escaped, new_figure
from .theme import OKABE_ITO, REFERENCE, plotly_graph_objects

if TYPE_CHECKING:
    import plotly.graph_objects as go

GIB = float(1 << 30)
MOST_NAMED = 3


def plan_memory(plan: PlanResult, *, theme: str = "auto") -> go.Figure:
    """Memory of the fullest rank by part, stacked, against what the GPU has."""
    go = plotly_graph_objects()
    verdict = "fits" if plan.fits else "does not fit"
    figure = new_figure(f"Planned memory: {verdict}", _subtitle(plan), theme=theme, height=300)
    for index, part in enumerate(plan.memory):
        figure.add_trace(
            go.Bar(
                x=[part.bytes / GIB],
                y=["a rank"],
                orientation="h",
                name=part.name,
                marker={"color": OKABE_ITO[index % len(OKABE_ITO)]},
                hovertemplate=f"{escaped(part.name)}: %{{x:.3g}} GiB<br>{escaped(part.basis)}<extra></extra>",
            )
        )
    capacity = plan.capacity_bytes / GIB
    figure.add_vline(x=capacity, line={"color": REFERENCE, "dash": "dash"})
    figure.update_layout(
        barmode="stack",
        xaxis=axis("GiB", range=[0, 1.08 * max(capacity, plan.memory_bytes / GIB)]),
        yaxis={"visible": False},
        showlegend=True,
        legend={"traceorder": "normal"},
        annotations=[
            {
                "text": f"{escaped(plan.gpu)}: {capacity:,.1f} GiB",
                "x": capacity,
                "y": 1.0,
                "yref": "paper",
                "showarrow": False,
                "xanchor": "right",
                "yanchor": "bottom",
            }
        ],
    )
    caption = (
        f"Predicted for the rank that holds most: {plan.memory_bytes / GIB:,.2f} of {capacity:,.1f} GiB. Weights, "
        "cache and activations are counted from shapes, the rest is assumed."
    )
    rows = [(part.name, part.bytes / GIB, part.basis) for part in plan.memory]
    return described(figure, caption, Table(("part", "GiB", "how it was found"), rows))


def plan_roofline(plan: PlanResult, *, theme: str = "auto") -> go.Figure:
    """Each planned batch's decode step: its rate of arithmetic over its arithmetic a byte, under the GPU's ceilings."""
    title = "Planned decode steps under the roofline"
    read = float(plan.ceilings.get("read_bytes_per_s") or 0)
    flops = float((plan.ceilings.get("flops_per_s") or {}).get(plan.dtype) or 0)
    if not plan.predictions or not read or not flops:
        return empty_figure(title, [plan], "The plan holds no ceilings.", theme=theme)
    go = plotly_graph_objects()
    figure = new_figure(title, _subtitle(plan), theme=theme, height=420)
    points = [
        (item, item.decode_flops / item.decode_bytes, item.decode_flops / (item.itl_ms / 1e3 / plan.pp_size) / 1e9)
        for item in plan.predictions
    ]
    ridge = flops / read
    xs = [min(x for _, x, _ in points) / 2, ridge, 2 * max(ridge, *(x for _, x, _ in points))]
    figure.add_trace(
        go.Scatter(
            x=xs,
            y=[xs[0] * read / 1e9, flops / 1e9, flops / 1e9],
            mode="lines",
            name=f"ceilings, {plan.dtype}",
            line={"color": REFERENCE, "dash": "dash", "width": 2},
            hoverinfo="skip",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=[x for _, x, _ in points],
            y=[y for _, _, y in points],
            mode="markers+text",
            name="planned",
            text=[f"batch {item.batch_size}" for item, _, _ in points],
            textposition="bottom right",
            marker={"color": OKABE_ITO[0], "size": 12, "symbol": "diamond-open", "line": {"width": 2}},
            hovertemplate="%{text}<br>%{x:.3g} FLOP/byte, %{y:.4g} GFLOP/s<extra></extra>",
        )
    )
    figure.update_layout(
        xaxis=axis("floating-point operations a byte read", type="log", dtick=1),
        yaxis=axis("GFLOP/s", type="log", dtick=1, exponentformat="power"),
        showlegend=True,
    )
    first = plan.prediction
    caption = (
        f"Predicted. On the slope a step is bound by reading, on the flat by arithmetic; batch {first.batch_size} "
        f"waits for {first.bound_by}. Ceilings: {plan.ceilings.get('source')}."
    )
    rows = [
        (item.batch_size, x, y, item.itl_ms, item.itl_floor_ms, item.bound_by, 100 * item.itl_floor_ms / item.itl_ms)
        for item, x, y in points
    ]
    columns = ("batch", "FLOP a byte", "GFLOP/s", "ITL (ms)", "ITL at the limit (ms)", "waits for", "of the limit (%)")
    return described(figure, caption, Table(columns, rows))


def plan_choices(plan: PlanResult, *, theme: str = "auto") -> go.Figure:
    """What was weighed for a target: inter-token latency over the memory of all ranks, those that meet it filled."""
    title = "Choices for the target"
    if not plan.choices:
        return empty_figure(title, [plan], "A target is needed for this figure: --target itl_ms=5.", theme=theme)
    go = plotly_graph_objects()
    asked = " ".join(f"{name}={limit:g}" for name, limit in plan.target.items())
    figure = new_figure(f"{title} {asked}", _subtitle(plan), theme=theme, height=420)
    formats = list(dict.fromkeys(choice.quantization for choice in plan.choices))
    # More names would cover each other: the choice that is recommended has its own, the others theirs in tooltips.
    named = plan.choices if len(plan.choices) <= MOST_NAMED else [plan.cheapest]
    for index, quantization in enumerate(formats):
        members = [choice for choice in plan.choices if choice.quantization == quantization]
        figure.add_trace(
            go.Scatter(
                x=[choice.memory_bytes * choice.gpus / GIB for choice in members],
                y=[choice.itl_ms for choice in members],
                mode="markers+text",
                name=quantization,
                text=[f"{choice.gpus} × {escaped(choice.gpu)}" if choice in named else "" for choice in members],
                customdata=[f"{choice.gpus} × {escaped(choice.gpu)}" for choice in members],
                textposition="top center",
                marker={
                    "color": OKABE_ITO[index % len(OKABE_ITO)],
                    "size": 12,
                    "symbol": ["circle" if choice.meets else "circle-open" for choice in members],
                },
                hovertemplate="%{customdata}<br>%{x:.3g} GiB in all, ITL %{y:.3g} ms<extra>"
                + escaped(quantization)
                + "</extra>",
            )
        )
    if "itl_ms" in plan.target:
        figure.add_hline(y=plan.target["itl_ms"], line={"color": REFERENCE, "dash": "dash"})
    memory = [choice.memory_bytes * choice.gpus / GIB for choice in plan.choices]
    latency = [choice.itl_ms for choice in plan.choices] + [v for name, v in plan.target.items() if name == "itl_ms"]
    figure.update_layout(
        xaxis=axis("memory of all ranks (GiB)", type="log", **_ticks(memory)),
        yaxis=axis("predicted inter-token latency (ms)", type="log", **_ticks(latency)),
        showlegend=True,
    )
    best = plan.cheapest
    answer = "nothing weighed meets it" if best is None else f"cheapest: {best.gpus} × {best.gpu}, {best.quantization}"
    caption = f"Predicted; filled dots meet {asked} and fit; {answer}."
    return described(figure, caption, plan.choice_table)


def _ticks(values: list[float]) -> dict[str, Any]:
    """Return ticks at 1, 2 and 5 of each decade of a logarithmic axis, or at the decades where there are many."""
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [step * 10.0**decade for decade in range(first, last + 1) for step in steps]
    return {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _subtitle(plan: PlanResult) -> str:
    words = [plan.model or plan.architecture, plan.gpu, f"tp {plan.tp_size} × pp {plan.pp_size}", plan.quantization]
    return " · ".join([*words, "predicted"])
