"""Figures of a benchmark's speed: runners beside each other, and throughput over the batch size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..benchmark.result import BenchPoint, BenchResult
from ..results import METRICS, Table
from ..results.comparison import label_of
from .figure import axis, described, empty_figure, new_figure, of_run, series_title
from .panels import Panel, panels_figure
from .theme import DASHES, colours, plotly_graph_objects

if TYPE_CHECKING:
    import plotly.graph_objects as go


def side_by_side(
    results: Sequence[BenchResult],
    *,
    batch_size: int | None = None,
    input_length: int | None = None,
    theme: str = "auto",
) -> go.Figure:
    """Bars of latency, time to first token and tokens per second for each runner, with the ratio to the first.

    Parameters
    ----------
    results
        Two or more benchmarks of the same configuration; put the reference (Hugging Face) first.
    batch_size, input_length
        Which configuration; None for the first that all have.
    """
    results = list(results)
    title = "Side by side"
    points = _common_points(results, batch_size, input_length)
    if points is None:
        return empty_figure(title, results, "The results have no configuration in common.", theme=theme)
    first = points[0]
    panels = [
        Panel("latency_ms", "mean", [_summary(point, "latency_ms", "mean") for point in points]),
        Panel("ttft_ms", "p50", [_summary(point, "ttft_ms", "p50") for point in points]),
        Panel("tokens_per_sec", "", [point.tokens_per_sec for point in points]),
    ]
    caption = (
        f"One clock for all ({results[0].clock}), the same random prompts. Runs: "
        + ", ".join(str(point.num_runs) for point in points)
        + "."
    )
    return panels_figure(
        title,
        f"engine-only · batch {first.batch_size}, {first.input_length} in, {first.output_length} out",
        [label_of(result) for result in results],
        [result.backend for result in results],
        panels,
        caption=caption,
        theme=theme,
    )


def throughput_over_batch(results: BenchResult | Sequence[BenchResult], *, theme: str = "auto") -> go.Figure:
    """Output tokens per second over the batch size, a line for each runner and pair of lengths."""
    results = [results] if isinstance(results, BenchResult) else list(results)
    shapes = {f"{point.input_length} in, {point.output_length} out" for result in results for point in result.points}
    shared = shapes.pop() if len(shapes) == 1 else ""
    figure = new_figure("Throughput over batch size", f"engine-only · {shared or 'static batches'}", theme=theme)
    go, rows = plotly_graph_objects(), []
    for result, colour in zip(results, colours([result.backend for result in results]), strict=True):
        lengths = list(dict.fromkeys((point.input_length, point.output_length) for point in result.points))
        for pair, dash in zip(lengths, DASHES * len(lengths), strict=False):
            points = sorted(
                (p for p in result.points if (p.input_length, p.output_length) == pair), key=lambda p: p.batch_size
            )
            label = series_title(result, None if shared else f"{pair[0]} in, {pair[1]} out")
            figure.add_trace(
                go.Scatter(
                    x=[point.batch_size for point in points],
                    y=[point.tokens_per_sec for point in points],
                    customdata=[[_summary(point, "latency_ms", "mean")] for point in points],
                    name=label,
                    meta=of_run(result),
                    mode="lines+markers",
                    line={"color": colour, "width": 2, "dash": dash},
                    marker={"size": 8, "color": colour},
                    hovertemplate="batch %{x}: %{y:,.1f} tokens/s, %{customdata[0]:.2f} ms a run<extra>"
                    + label
                    + "</extra>",
                )
            )
            rows += [(label, p.batch_size, p.tokens_per_sec, _summary(p, "latency_ms", "mean")) for p in points]
    sizes = sorted({point.batch_size for result in results for point in result.points})
    figure.update_layout(
        xaxis=axis("batch size (rows)", type="log", tickvals=sizes, ticktext=[str(size) for size in sizes]),
        yaxis=axis(METRICS["tokens_per_sec"].label, rangemode="tozero"),
        showlegend=True,
    )
    metric = METRICS["tokens_per_sec"]
    caption = (
        f"{metric.title}: {metric.definition} A line that bends towards the horizontal has found the machine's limit."
    )
    return described(figure, caption, Table(("series", "batch", "tokens/s", "latency mean (ms)"), rows))


def _common_points(
    results: Sequence[BenchResult], batch_size: int | None, input_length: int | None
) -> list[BenchPoint] | None:
    """Return one point a result, all of one configuration."""
    for candidate in results[0].points if results else ():
        if batch_size not in (None, candidate.batch_size) or input_length not in (None, candidate.input_length):
            continue
        matches = [next((p for p in result.points if p.label == candidate.label), None) for result in results]
        if all(match is not None for match in matches):
            return [match for match in matches if match is not None]
    return None


def _summary(point: BenchPoint, tag: str, statistic: str) -> float | None:
    summary = point.distributions[tag]
    return None if summary is None else getattr(summary, statistic)
