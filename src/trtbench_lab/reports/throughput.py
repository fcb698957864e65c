"""Figures of speed and memory: sides beside each other, throughput over the batch, and where the memory is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..benchmark.memory import MemoryFigures
from ..benchmark.result import BenchPoint, BenchResult
from ..results import METRICS, Table, metric_of
from ..results.comparison import label_of
from ..results.render import format_value
from .figure import axis, described, empty_figure, escaped, new_figure, scaled_bytes, series_title
from .theme import DASHES, colours, plotly_graph_objects

if TYPE_CHECKING:
    import plotly.graph_objects as go

_ROOM_FOR_TEXT = 1.5  # an axis goes so much beyond its longest bar, whose number stands to the right


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
    shape = f"batch {first.batch_size}, {first.input_length} in, {first.output_length} out"
    figure = new_figure(title, shape, theme=theme, height=150 + 44 * len(results))
    panels: list[tuple[str, str, list[float | None]]] = [
        ("latency_ms", "mean", [_summary(point, "latency_ms", "mean") for point in points]),
        ("ttft_ms", "p50", [_summary(point, "ttft_ms", "p50") for point in points]),
        ("tokens_per_sec", "", [point.tokens_per_sec for point in points]),
    ]
    labels = [escaped(label_of(result)) for result in results]
    fills = colours([result.backend for result in results])
    for i, (tag, statistic, values) in enumerate(panels):
        _add_panel(figure, i, len(panels), tag, statistic, labels, values, fills)
    figure.update_layout(showlegend=False, bargap=0.35)
    rows = [
        (METRICS[tag].label + (f", {statistic}" if statistic else ""), *values) for tag, statistic, values in panels
    ]
    caption = (
        f"One clock for all ({results[0].clock}), the same random prompts. × is the ratio to {labels[0]}; for latency "
        "and time to first token less is better, for tokens per second more. Runs: "
        + ", ".join(str(point.num_runs) for point in points)
        + "."
    )
    return described(figure, caption, Table(("metric", *labels), rows), min_width_px=760)


def throughput_over_batch(results: BenchResult | Sequence[BenchResult], *, theme: str = "auto") -> go.Figure:
    """Output tokens per second over the batch size, a line for each runner and pair of lengths."""
    results = [results] if isinstance(results, BenchResult) else list(results)
    shapes = {f"{point.input_length} in, {point.output_length} out" for result in results for point in result.points}
    shared = shapes.pop() if len(shapes) == 1 else ""
    figure = new_figure("Throughput over batch size", shared or "static batches", theme=theme)
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


def memory(results: BenchResult | Sequence[BenchResult], *, theme: str = "auto") -> go.Figure:
    """Peaks of memory, each kind under its own name; kinds that cannot be known on this machine are left out."""
    results = [results] if isinstance(results, BenchResult) else list(results)
    peaks = _memory_peaks(results)
    title = "Memory"
    if not peaks:
        return empty_figure(title, results, "No memory figure is known for these results.", theme=theme)
    divisor, unit = scaled_bytes([value for values in peaks.values() for value in values])
    figure = new_figure(
        title, "peaks while the benchmark ran", theme=theme, height=170 + len(peaks) * (20 + 24 * len(results))
    )
    go = plotly_graph_objects()
    names = [METRICS[tag].title for tag in peaks]
    for i, (result, colour) in enumerate(zip(results, colours([r.backend for r in results]), strict=True)):
        scaled = [_divided(values[i], divisor) for values in peaks.values()]
        figure.add_trace(
            go.Bar(
                y=names,
                x=scaled,
                orientation="h",
                name=series_title(result),
                marker={"color": colour},
                text=["n/a" if value is None else f"{format_value(value)} {unit}" for value in scaled],
                textposition="outside",
                cliponaxis=False,
                hovertemplate="%{y}: %{text}<extra>" + series_title(result) + "</extra>",
            )
        )
    figure.update_layout(
        barmode="group",
        xaxis=axis(f"peak over all configurations ({unit})", rangemode="tozero"),
        yaxis={"autorange": "reversed", "gridcolor": "rgba(0,0,0,0)"},
        showlegend=True,
        margin={"r": 96},
    )
    caption = "Different things with different names, not to be added up. " + " ".join(
        f"{METRICS[tag].title}: {METRICS[tag].definition}" for tag in peaks
    )
    rows = [(METRICS[tag].title, *(_divided(value, divisor) for value in values)) for tag, values in peaks.items()]
    columns = ("memory", *(f"{escaped(label_of(result))} ({unit})" for result in results))
    return described(figure, caption, Table(columns, rows))


def _memory_peaks(results: Sequence[BenchResult]) -> dict[str, list[int | None]]:
    """Return, by tag, the largest figure of each result over its configurations; unknown everywhere is left out."""
    peaks: dict[str, list[int | None]] = {"weights_bytes": [result.weights_bytes for result in results]}
    for tag in MemoryFigures.__dataclass_fields__:
        by_result = [[getattr(point.memory, tag) for point in result.points] for result in results]
        peaks[tag] = [max((v for v in values if v is not None), default=None) for values in by_result]
    return {tag: values for tag, values in peaks.items() if any(value is not None for value in values)}


def _add_panel(
    figure: go.Figure,
    index: int,
    count: int,
    tag: str,
    statistic: str,
    labels: list[str],
    values: list[float | None],
    fills: list[str],
) -> None:
    """Add one metric's horizontal bars in its own column of the figure."""
    go = plotly_graph_objects()
    suffix = "" if index == 0 else str(index + 1)
    metric = metric_of(tag)
    heading = metric.label if metric else tag
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
            hovertemplate="%{y}: %{text}<extra>" + heading + "</extra>",
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
                f"{heading}{', ' + statistic if statistic else ''}",
                domain=[start, start + width],
                anchor=f"y{suffix}",
                range=[0, _ROOM_FOR_TEXT * max((value for value in values if value is not None), default=1.0)],
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


def _divided(value: int | None, divisor: float) -> float | None:
    return None if value is None else value / divisor


def _summary(point: BenchPoint, tag: str, statistic: str) -> float | None:
    summary = point.distributions[tag]
    return None if summary is None else getattr(summary, statistic)
