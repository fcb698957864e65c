"""What quantization costs and gains: quality over size, with speed as the size of the dot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..benchmark.result import BenchResult
from ..errors import ResultsError
from ..results import Result, Table, metric_of
from .figure import axis, described, escaped, new_figure, scaled_bytes
from .theme import OKABE_ITO, plotly_graph_objects

if TYPE_CHECKING:
    import plotly.graph_objects as go

_DOT_PIXELS = (10.0, 34.0)


@dataclass(frozen=True, kw_only=True)
class QuantizedRun:
    """One engine in the trade-off.

    Attributes
    ----------
    label
        Its quantization, for example ``"W8A16"``.
    bench
        Its benchmark, for weights and speed.
    score
        A result that carries the quality metric for the same engine.
    """

    label: str
    bench: BenchResult
    score: Result


def quantization_tradeoff(runs: Sequence[QuantizedRun], *, quality: str = "rouge1", theme: str = "auto") -> go.Figure:
    """A dot an engine: weights across, quality upwards, and the area of the dot its tokens per second.

    Parameters
    ----------
    runs
        Engines of one model.
    quality
        A flat name or tag of the score's metrics, for example ``"rouge1"`` or ``"entity_accuracy"``.

    Raises
    ------
    ResultsError
        When a score has no such metric or a benchmark does not know its weights.
    """
    metric = metric_of(quality)
    quality_label = metric.label if metric else quality
    models = " · ".join(dict.fromkeys(str(run.bench.model) for run in runs))
    figure = new_figure(f"{quality_label} over size and speed", models, theme=theme, height=440)
    sizes = [_weights(run) for run in runs]
    divisor, unit = scaled_bytes(sizes)
    speeds = [run.bench.points[0].tokens_per_sec or 0.0 for run in runs]
    qualities = [_quality(run, quality) for run in runs]
    fastest = max(speeds, default=0.0) or 1.0
    go = plotly_graph_objects()
    for i, run in enumerate(runs):
        # The area, not the diameter, is in proportion: that is what the eye compares.
        diameter = max(_DOT_PIXELS[0], _DOT_PIXELS[1] * (speeds[i] / fastest) ** 0.5)
        label = escaped(f"{run.label} [{run.bench.backend}]")
        figure.add_trace(
            go.Scatter(
                x=[sizes[i] / divisor],
                y=[qualities[i]],
                mode="markers+text",
                name=label,
                text=[f"{label}<br>{speeds[i]:,.0f} tokens/s"],
                textposition="middle right" if i % 2 == 0 else "bottom center",
                marker={"size": diameter, "color": OKABE_ITO[i % len(OKABE_ITO)], "opacity": 0.85},
                hovertemplate=f"{label}<br>%{{x:.2f}} {unit}<br>{quality_label} %{{y:.2f}}<br>"
                f"{speeds[i]:,.1f} tokens/s<extra></extra>",
            )
        )
    largest = max(sizes, default=1) / divisor
    figure.update_layout(
        xaxis=axis(f"Weights ({unit})", range=[0, largest * 1.35]),
        yaxis=axis(quality_label, range=_padded(qualities)),
        showlegend=False,
    )
    caption = (
        "Up is better, left is smaller, a larger dot is faster (its area is in proportion to tokens per second). "
        "The vertical axis does not begin at zero. " + (metric.trap if metric and metric.trap else "")
    )
    rows = [
        (run.label, run.bench.backend, size / divisor, value, speed)
        for run, size, value, speed in zip(runs, sizes, qualities, speeds, strict=True)
    ]
    columns = ("quantization", "backend", f"weights ({unit})", quality_label, "tokens/s")
    return described(figure, caption.strip(), Table(columns, rows))


def _weights(run: QuantizedRun) -> int:
    if run.bench.weights_bytes is None:
        raise ResultsError(
            "The benchmark does not know the size of its weights.",
            where=run.label,
            remedy="Benchmark the engine with %trt_bench, which records it.",
        )
    return run.bench.weights_bytes


def _quality(run: QuantizedRun, quality: str) -> float:
    for name, value in run.score.metrics.items():
        metric = metric_of(name)
        if value is not None and (name == quality or (metric is not None and metric.tag == quality)):
            return float(value)
    raise ResultsError(f"The score has no metric {quality!r}.", where=run.label, remedy="Score it with %trt_summarize.")


def _padded(values: Sequence[float]) -> list[float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = max((high - low) * 0.25, 0.5)
    return [low - margin, high + margin]
