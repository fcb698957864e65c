"""Throughput against latency, and the machine's limit: what a larger batch or a higher rate buys and costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..benchmark.result import LABEL as ENGINE_ONLY
from ..benchmark.result import BenchPoint, BenchResult
from ..benchmark.serving_result import LABEL as SERVING
from ..benchmark.serving_result import ServingResult
from ..errors import SpecError, did_you_mean
from ..results import METRICS, Table
from .figure import axis, described, empty_figure, new_figure, of_run, series_title
from .theme import DASHES, colours, plotly_graph_objects, theme_named

if TYPE_CHECKING:
    import plotly.graph_objects as go

LATENCY_STATISTICS = {"latency_ms": "mean", "ttft_ms": "p50", "itl_ms": "p50"}
SERVING_METRICS = ("request_ttft_ms", "request_latency_ms", "request_tpot_ms")
Place = tuple[float, float]


def throughput_latency(
    results: BenchResult | Sequence[BenchResult], *, metric: str = "itl_ms", theme: str = "auto"
) -> go.Figure:
    """Tokens per second over a latency, a line a runner and pair of lengths, its dots the batch sizes.

    A ring marks the Pareto front of each pair of lengths: no other dot is both faster for the one who waits and
    greater in throughput.

    Parameters
    ----------
    results
        One benchmark, or several to compare.
    metric
        Across: ``"itl_ms"`` or ``"ttft_ms"`` (median), or ``"latency_ms"`` (mean).
    """
    if metric not in LATENCY_STATISTICS:
        nearest = did_you_mean(metric, list(LATENCY_STATISTICS))
        raise SpecError(f"No throughput over {metric!r}.", where="metric", remedy=nearest)
    results = [results] if isinstance(results, BenchResult) else list(results)
    statistic, named = LATENCY_STATISTICS[metric], METRICS[metric]
    title = "Throughput against latency"
    shapes = list(dict.fromkeys(_lengths(point) for result in results for point in result.points))
    places = {
        (result.id, point.label): place
        for result in results
        for point in result.points
        if (place := _place(point, metric, statistic)) is not None
    }
    if not places:
        return empty_figure(title, results, f"No run has a value of {named.title.lower()}.", theme=theme)
    shared = _shape_text(shapes[0]) if len(shapes) == 1 else ""
    figure = new_figure(title, " · ".join(part for part in (ENGINE_ONLY, shared) if part), theme=theme)
    fronts = {shape: pareto_front([places[key] for key in _keys(results, shape) if key in places]) for shape in shapes}
    rows: list[tuple[object, ...]] = []
    for result, colour in zip(results, colours([result.backend for result in results]), strict=True):
        for shape, dash in zip(shapes, DASHES * len(shapes), strict=False):
            points = [p for p in result.points if _lengths(p) == shape and (result.id, p.label) in places]
            if not points:
                continue
            points.sort(key=lambda point: point.batch_size)
            label = series_title(result, None if shared else _shape_text(shape))
            at, front = [places[result.id, point.label] for point in points], fronts[shape]
            figure.add_trace(_line(result, at, points, label, (colour, dash), front, theme, named.title))
            rows += [
                (label, p.batch_size, x, y, "yes" if (x, y) in front else "no")
                for p, (x, y) in zip(points, at, strict=True)
            ]
    figure.update_layout(
        showlegend=True,
        xaxis=axis(f"{named.label}, {statistic}", rangemode="tozero"),
        yaxis=axis(METRICS["tokens_per_sec"].label, rangemode="tozero"),
        hovermode="closest",
    )
    caption = (
        f"Up and left is better; numbers at the dots are batch sizes. {named.title}: {named.definition} A ring marks "
        "the Pareto front: no other dot of these lengths is better in both."
    )
    columns = ("series", "batch", f"{named.label}, {statistic}", "tokens/s", "on the front")
    return described(figure, caption, Table(columns, rows))


def serving_throughput_latency(
    results: ServingResult | Sequence[ServingResult], *, metric: str = "request_ttft_ms", theme: str = "auto"
) -> go.Figure:
    """Output tokens per second over the p50 and p99 of a serving latency, a dot and a bar a benchmark.

    Parameters
    ----------
    results
        Benchmarks of one engine at several rates, or of several engines.
    metric
        ``"request_ttft_ms"``, ``"request_latency_ms"`` or ``"request_tpot_ms"``.
    """
    if metric not in SERVING_METRICS:
        nearest = did_you_mean(metric, SERVING_METRICS)
        raise SpecError(f"No throughput over {metric!r}.", where="metric", remedy=nearest)
    results = [results] if isinstance(results, ServingResult) else list(results)
    named, title = METRICS[metric], "Throughput against latency under load"
    figure = new_figure(title, SERVING, theme=theme)
    go, rows = plotly_graph_objects(), []
    for result, colour in zip(results, colours([result.backend for result in results]), strict=True):
        summary, rate = result.distributions[metric], result.output_tokens_per_second
        if summary is None or rate is None:
            continue
        load = "all at once" if result.request_rate is None else f"{result.request_rate:g} requests/s"
        label = series_title(result, load)
        figure.add_trace(
            go.Scatter(
                x=[summary.p50, summary.p99],
                y=[rate, rate],
                mode="lines+markers",
                name=label,
                meta=of_run(result),
                line={"color": colour, "width": 2},
                marker={"size": [11, 9], "symbol": ["circle", "line-ns-open"], "color": colour, "line": {"width": 2}},
                customdata=["p50", "p99"],
                hovertemplate="%{customdata} %{x:.2f} ms at %{y:,.1f} tokens/s<extra>" + label + "</extra>",
            )
        )
        rows.append((label, summary.n, summary.p50, summary.p99, rate, result.goodput_per_second))
    if not rows:
        return empty_figure(title, results, "No request has a value.", theme=theme)
    figure.update_layout(
        showlegend=True,
        xaxis=axis(named.label, rangemode="tozero"),
        yaxis=axis(METRICS["output_tokens_per_second"].label, rangemode="tozero"),
        hovermode="closest",
    )
    caption = f"The dot is the median, the bar to its right the p99. {named.title}: {named.definition}"
    columns = ("series", "n", "p50 (ms)", "p99 (ms)", "tokens/s", "goodput (1/s)")
    return described(figure, caption, Table(columns, rows))


def share_of_limit(results: BenchResult | Sequence[BenchResult], *, theme: str = "auto") -> go.Figure:
    """Bars: how near each configuration's decode step comes to the machine's measured read bandwidth."""
    results = [results] if isinstance(results, BenchResult) else list(results)
    metric, title = METRICS["share_of_read_bandwidth"], "Share of the machine's limit"
    shares = {
        (result.id, point.label): share
        for result in results
        for point in result.points
        if (share := result.share_of_read_bandwidth(point)) is not None
    }
    if not shares:
        reason = "The read bandwidth of the machine was not recorded with these runs."
        return empty_figure(title, results, reason, theme=theme)
    points = {p.label: p for result in results for p in result.points if any(label == p.label for _, label in shares)}
    names = {label: f"batch {p.batch_size}, {_shape_text(_lengths(p))}" for label, p in points.items()}
    height = 160 + len(points) * (16 + 24 * len(results))
    figure = new_figure(title, ENGINE_ONLY, theme=theme, height=height)
    go, rows = plotly_graph_objects(), []
    for result, colour in zip(results, colours([result.backend for result in results]), strict=True):
        values = [shares.get((result.id, label)) for label in points]
        label = series_title(result)
        figure.add_trace(
            go.Bar(
                y=list(names.values()),
                x=values,
                orientation="h",
                name=label,
                meta=of_run(result),
                marker={"color": colour},
                text=["" if value is None else f"{value:.0f} %" for value in values],
                textposition="outside",
                cliponaxis=False,
                hovertemplate="%{y}: %{x:.1f} %<extra>" + label + "</extra>",
            )
        )
        rows += [(label, name, value) for name, value in zip(names.values(), values, strict=True)]
    limit = {"dash": "dot", "width": 2, "color": theme_named(theme).muted}
    figure.update_layout(
        barmode="group",
        xaxis=axis("of the measured read bandwidth (%)", range=[0, 1.12 * max(100.0, *shares.values())]),
        yaxis={"autorange": "reversed", "gridcolor": "rgba(0,0,0,0)"},
        shapes=[{"type": "line", "x0": 100, "x1": 100, "yref": "paper", "y0": 0, "y1": 1, "line": limit}],
        showlegend=True,
    )
    caption = f"{metric.definition} The dotted line is that limit. {metric.trap or ''}"
    return described(figure, caption.strip(), Table(("series", "configuration", "share (%)"), rows))


def pareto_front(places: Sequence[Place]) -> set[Place]:
    """Return the places that no other one beats: less across and more upwards."""
    return {(x, y) for x, y in places if not any((a <= x and b >= y) and (a, b) != (x, y) for a, b in places)}


def _line(
    result: BenchResult,
    at: list[Place],
    points: list[BenchPoint],
    label: str,
    look: tuple[str, str],
    front: set[Place],
    theme: str,
    latency: str,
) -> object:
    colour, dash = look
    ring = [2.2 if place in front else 0 for place in at]
    return plotly_graph_objects().Scatter(
        x=[x for x, _ in at],
        y=[y for _, y in at],
        mode="lines+markers+text",
        name=label,
        meta=of_run(result),
        text=[str(point.batch_size) for point in points],
        textposition="top center",
        line={"color": colour, "width": 2, "dash": dash},
        marker={"size": 10, "color": colour, "line": {"color": theme_named(theme).text, "width": ring}},
        hovertemplate=f"batch %{{text}}: {latency} %{{x:.2f}} ms, %{{y:,.1f}} tokens/s<extra>{label}</extra>",
    )


def _place(point: BenchPoint, metric: str, statistic: str) -> Place | None:
    summary, rate = point.distributions[metric], point.tokens_per_sec
    return None if summary is None or rate is None else (getattr(summary, statistic), rate)


def _keys(results: Sequence[BenchResult], shape: tuple[int, int]) -> list[tuple[str, str]]:
    return [(result.id, point.label) for result in results for point in result.points if _lengths(point) == shape]


def _lengths(point: BenchPoint) -> tuple[int, int]:
    return point.input_length, point.output_length


def _shape_text(shape: tuple[int, int]) -> str:
    return f"{shape[0]} in, {shape[1]} out"
