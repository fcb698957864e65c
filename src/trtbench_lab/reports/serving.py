"""Figures of a serving benchmark: who ran when, how the latencies are spread, and throughput under load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..benchmark.serving_result import LABEL, LATENCIES, ServingResult
from ..errors import SpecError, did_you_mean
from ..results import METRICS, Table
from ..results.statistics import PERCENTILE_METHOD, PERCENTILES
from .figure import axis, described, empty_figure, evenly, new_figure, of_run, series_title, tag_run
from .theme import colours, plotly_graph_objects

if TYPE_CHECKING:
    import plotly.graph_objects as go

MAX_BARS = 300  # requests whose lines can still be told apart


def serving_timeline(result: ServingResult, *, theme: str = "auto") -> go.Figure:
    """A line a request, from sent over first token to last token, and under it how many ran and waited at each step."""
    title = "Requests over time"
    requests = [(i, request) for i, request in enumerate(result.requests) if request.token_ns]
    if not requests:
        return empty_figure(title, [result], "No request gave a token.", theme=theme)
    shown = [requests[i] for i in evenly(len(requests), MAX_BARS)]
    figure = new_figure(title, f"{series_title(result)} · {LABEL}", theme=theme, height=520)
    go = plotly_graph_objects()
    phases = (("waiting and prompt", "#E69F00"), ("generating", "#0072B2"))
    for index, (name, colour) in enumerate(phases):
        xs: list[float | None] = []
        ys: list[int | None] = []
        for number, request in shown:
            edges = (request.sent_ns, request.token_ns[0], request.token_ns[-1])
            xs += [edges[index] / 1e9, edges[index + 1] / 1e9, None]
            ys += [number, number, None]
        figure.add_trace(
            go.Scatter(
                x=xs,
                y=ys,
                mode="lines",
                name=name,
                line={"color": colour, "width": 3},
                hovertemplate="request %{y}: %{x:.3f} s<extra>" + name + "</extra>",
            )
        )
    steps = result.steps
    places = evenly(len(steps.known_ns))
    for name, column, colour in (("running", steps.running, "#009E73"), ("in line", steps.waiting, "#D55E00")):
        figure.add_trace(
            go.Scatter(
                x=[steps.known_ns[i] / 1e9 for i in places],
                y=[column[i] for i in places],
                mode="lines",
                name=name,
                yaxis="y2",
                line={"color": colour, "width": 1.5, "shape": "hv"},
                hovertemplate="%{y} " + name + " at %{x:.3f} s<extra></extra>",
            )
        )
    tag_run(figure, 0, result)
    figure.update_layout(
        xaxis=axis("time since the first request was sent (s)", rangemode="tozero", anchor="y2"),
        yaxis=axis("request", domain=[0.36, 1.0], autorange="reversed"),
        yaxis2=axis("requests", domain=[0.0, 0.28], rangemode="tozero"),
        showlegend=True,
    )
    caption = (
        "Above, a line a request: from sent to its first token, then to its last. Below, how many requests were in the "
        "batch and in line at each step."
    )
    if len(shown) < len(requests):
        caption += f" {len(shown)} of {len(requests)} requests are drawn, evenly chosen."
    rows = [
        (i, r.input_length, r.output_length, r.sent_ns / 1e9, r.ttft_ms, r.tpot_ms, r.latency_ms) for i, r in requests
    ]
    columns = ("request", "input", "output", "sent (s)", "TTFT (ms)", "TPOT (ms)", "latency (ms)")
    return described(figure, caption, Table(columns, rows), min_width_px=560)


def serving_latency(
    results: ServingResult | Sequence[ServingResult], *, metric: str = "request_ttft_ms", theme: str = "auto"
) -> go.Figure:
    """Percentile curves of a serving latency, with p50, p90, p95 and p99 marked.

    Parameters
    ----------
    results
        One benchmark, or several to compare.
    metric
        ``"request_ttft_ms"``, ``"request_itl_ms"``, ``"request_tpot_ms"`` or ``"request_latency_ms"``.
    """
    if metric not in LATENCIES:
        raise SpecError(f"No distribution of {metric!r}.", where="metric", remedy=did_you_mean(metric, LATENCIES))
    results = [results] if isinstance(results, ServingResult) else list(results)
    named = METRICS[metric]
    figure = new_figure(f"{named.title}: distribution", LABEL, theme=theme)
    go, rows = plotly_graph_objects(), []
    for result, colour in zip(results, colours([result.backend for result in results]), strict=True):
        samples, summary = sorted(result.series(metric)), result.distributions[metric]
        if summary is None:
            continue
        label = series_title(result, f"{_load(result)}, n = {summary.n}")
        places = evenly(len(samples))
        last = max(len(samples) - 1, 1)
        figure.add_trace(
            go.Scatter(
                x=[samples[i] for i in places],
                y=[100.0 * i / last for i in places],
                mode="lines",
                name=label,
                meta=of_run(result),
                line={"color": colour, "width": 2},
                hovertemplate="%{y:.1f} % took at most %{x:.2f} ms<extra>" + label + "</extra>",
            )
        )
        marked = [getattr(summary, f"p{q}") for q in PERCENTILES]
        figure.add_trace(
            go.Scatter(
                x=marked,
                y=list(PERCENTILES),
                mode="markers",
                showlegend=False,
                meta=of_run(result),
                marker={"color": colour, "size": 8},
                hovertemplate="p%{y}: %{x:.2f} ms<extra>" + label + "</extra>",
            )
        )
        rows.append((label, summary.n, summary.mean, *marked, summary.max))
    if not rows:
        return empty_figure(f"{named.title}: distribution", results, "No request has a value.", theme=theme)
    figure.update_layout(
        showlegend=True,
        xaxis=axis(named.label, rangemode="tozero"),
        yaxis=axis("samples at or below (%)", range=[-2, 104], tickvals=[0, 50, 90, 99], ticksuffix=" "),
        hovermode="closest",
    )
    caption = (
        f"{named.title}: {named.definition} Dots mark p50, p90, p95 and p99 by {PERCENTILE_METHOD} interpolation; left "
        "is better."
    )
    columns = ("series", "n", "mean (ms)", *(f"p{q} (ms)" for q in PERCENTILES), "max (ms)")
    return described(figure, caption, Table(columns, rows))


def serving_throughput(results: ServingResult | Sequence[ServingResult], *, theme: str = "auto") -> go.Figure:
    """Bars of output tokens and (where a service level is stated) goodput, a row a benchmark."""
    from .panels import Panel, panels_figure

    results = [results] if isinstance(results, ServingResult) else list(results)
    panels = [
        Panel("output_tokens_per_second", "", [result.output_tokens_per_second for result in results]),
        Panel("requests_per_second", "", [result.requests_per_second for result in results]),
    ]
    if any(result.slo_ms for result in results):
        panels.append(Panel("goodput_per_second", "", [result.goodput_per_second for result in results]))
    return panels_figure(
        "Throughput",
        LABEL,
        [f"{series_title(result)}, {_load(result)}" for result in results],
        [result.backend for result in results],
        panels,
        caption="Over the whole duration, from the first request sent to the last token.",
        theme=theme,
    )


def _load(result: ServingResult) -> str:
    rate = "all at once" if result.request_rate is None else f"{result.request_rate:g} requests/s"
    return rate if result.policy == "in-flight" else f"{result.policy}, {rate}"
