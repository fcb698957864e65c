"""Figures of memory: each kind under its own name, because they are different things."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..benchmark.memory import MemoryFigures
from ..benchmark.result import BenchResult
from ..results import METRICS, Table
from ..results.comparison import label_of
from ..results.render import format_value
from .figure import axis, described, empty_figure, escaped, new_figure, of_run, scaled_bytes
from .sides import side_labels
from .theme import colours, plotly_graph_objects

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ..evaluation.compare_result import CompareResult


def memory(results: BenchResult | Sequence[BenchResult], *, theme: str = "auto") -> go.Figure:
    """Peaks of memory, each kind under its own name; kinds that cannot be known on this machine are left out."""
    results = [results] if isinstance(results, BenchResult) else list(results)
    labels, backends = [label_of(result) for result in results], [result.backend for result in results]
    figure = memory_bars("Peak memory", labels, backends, _memory_peaks(results), theme)
    for trace, result in zip(figure.data, results, strict=False):  # none where no figure is known
        trace.meta = of_run(result)
    return figure


def compare_memory(result: CompareResult, *, theme: str = "auto") -> go.Figure:
    """Weights, cache and growth of the process of both sides, each under its own name."""
    sides = (result.hf_memory, result.engine_memory)
    peaks = {
        tag: [getattr(side, tag) for side in sides]
        for tag in ("weights_bytes", "kv_cache_bytes", "process_rss_peak_delta_bytes")
    }
    return memory_bars(
        "Engine and Hugging Face: memory", side_labels(result), ["huggingface", result.backend], peaks, theme
    )


def memory_bars(
    title: str, labels: Sequence[str], backends: Sequence[str], peaks: dict[str, list[int | None]], theme: str
) -> go.Figure:
    """Return grouped horizontal bars, a group a kind of memory; kinds that no side knows are left out."""
    peaks = {tag: values for tag, values in peaks.items() if any(value is not None for value in values)}
    if not peaks:
        return empty_figure(title, [], "No memory figure is known for these results.", theme=theme)
    divisor, unit = scaled_bytes([value for values in peaks.values() for value in values])
    height = 170 + len(peaks) * (20 + 24 * len(labels))
    figure = new_figure(title, "engine-only · largest value of each kind", theme=theme, height=height)
    go = plotly_graph_objects()
    scaled = {tag: [None if v is None else v / divisor for v in values] for tag, values in peaks.items()}
    for i, (label, colour) in enumerate(zip(labels, colours(backends), strict=True)):
        column = [values[i] for values in scaled.values()]
        figure.add_trace(
            go.Bar(
                y=[METRICS[tag].title for tag in peaks],
                x=column,
                orientation="h",
                name=escaped(label),
                marker={"color": colour},
                text=["n/a" if value is None else f"{format_value(value)} {unit}" for value in column],
                textposition="outside",
                cliponaxis=False,
                hovertemplate="%{y}: %{text}<extra>" + escaped(label) + "</extra>",
            )
        )
    figure.update_layout(
        barmode="group",
        xaxis=axis(f"memory ({unit})", rangemode="tozero"),
        yaxis={"autorange": "reversed", "gridcolor": "rgba(0,0,0,0)"},
        showlegend=True,
        margin={"r": 96},
    )
    caption = "Different things with different names, not to be added up. " + " ".join(
        f"{METRICS[tag].title}: {METRICS[tag].definition}" for tag in peaks
    )
    rows = [(METRICS[tag].title, *values) for tag, values in scaled.items()]
    return described(figure, caption, Table(("memory", *(f"{label} ({unit})" for label in labels)), rows))


def _memory_peaks(results: Sequence[BenchResult]) -> dict[str, list[int | None]]:
    """Return, by tag, the largest figure of each result over its configurations."""
    peaks: dict[str, list[int | None]] = {"weights_bytes": [result.weights_bytes for result in results]}
    for tag in MemoryFigures.__dataclass_fields__:
        by_result = [[getattr(point.memory, tag) for point in result.points] for result in results]
        peaks[tag] = [max((v for v in values if v is not None), default=None) for values in by_result]
    return peaks
