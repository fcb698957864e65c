"""Memory over time: allocator, process and device, each under its own name and in a line of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..benchmark.result import LABEL as ENGINE_ONLY
from ..benchmark.result import MEMORY_OVER_TIME, BenchResult
from ..benchmark.serving_result import LABEL as SERVING
from ..benchmark.serving_result import ServingResult
from ..results import METRICS, Table
from .figure import axis, described, empty_figure, new_figure, of_run, scaled_bytes, series_title
from .theme import colours, plotly_graph_objects

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Column of the timeline → whose peak it is, its words, its line: the dash tells the kind of memory, the colour the run.
_KINDS = {
    "process_rss_bytes": ("process_rss_peak_bytes", "process, resident", "solid"),
    "process_gpu_bytes": ("process_gpu_peak_bytes", "process, on the GPU", "dash"),
    "device_gpu_bytes": ("device_gpu_peak_bytes", "device, everybody", "dot"),
    "allocator_reserved_bytes": ("allocator_reserved_peak_bytes", "allocator, reserved", "dashdot"),
    "allocator_allocated_bytes": ("allocator_allocated_peak_bytes", "allocator, allocated", "longdash"),
}
_MOST_RUNS = 4  # times five kinds of memory: more lines would not be told apart


def memory_over_time(
    results: BenchResult | ServingResult | Sequence[BenchResult | ServingResult],
    *,
    configuration: str | None = None,
    theme: str = "auto",
) -> go.Figure:
    """Lines of memory while a configuration ran untimed (or while requests were served), a dash a kind of memory.

    Parameters
    ----------
    results
        Benchmarks of one kind: static ones, or serving ones.
    configuration
        Label of a static benchmark's configuration; None for each result's largest batch.
    """
    results = list(results) if isinstance(results, Sequence) else [results]
    title = "Memory over time"
    found = [(result, label, timeline) for result in results for label, timeline in _timelines(result, configuration)]
    if not found:
        reason = "No timeline of memory was recorded with these runs."
        return empty_figure(title, results, reason, theme=theme)
    shown = found[:_MOST_RUNS]
    columns = [name for name in _KINDS if any(timeline.get(name) for _, _, timeline in shown)]
    divisor, unit = scaled_bytes([value for _, _, line in shown for name in columns for value in line.get(name, ())])
    serving = isinstance(shown[0][0], ServingResult)
    configurations = list(dict.fromkeys(label for _, label, _ in shown))
    shared = configurations[0] if len(configurations) == 1 and not serving else ""
    figure = new_figure(
        title, " · ".join(part for part in (SERVING if serving else ENGINE_ONLY, shared) if part), theme=theme
    )
    go, rows = plotly_graph_objects(), []
    for (result, label, timeline), colour in zip(shown, colours([r.backend for r, _, _ in shown]), strict=True):
        for name in columns:
            values = [value / divisor for value in timeline.get(name, ())]
            if not values:
                continue
            _, words, dash = _KINDS[name]
            series = series_title(result, words if shared or serving else f"{label}, {words}")
            figure.add_trace(
                go.Scatter(
                    x=timeline["time_ms"],
                    y=values,
                    mode="lines",
                    name=series,
                    meta=of_run(result),
                    line={"color": colour, "width": 2, "dash": dash, "shape": "hv"},
                    hovertemplate="%{y:.2f} " + unit + " at %{x:.0f} ms<extra>" + series + "</extra>",
                )
            )
            rows.append((series, len(values), values[0], max(values), values[-1]))
    figure.update_layout(
        showlegend=True,
        xaxis=axis("time since the watch began (ms)", rangemode="tozero"),
        yaxis=axis(f"memory ({unit})", rangemode="tozero"),
        hovermode="closest",
    )
    caption = "Different things with different names, not to be added up. " + " ".join(
        f"{words[0].upper()}{words[1:]}: {METRICS[peak].definition.replace('max over the measurement of ', '')}"
        for peak, words, _ in (_KINDS[name] for name in columns)
    )
    if len(found) > len(shown):
        caption += f" {len(shown)} of {len(found)} runs are drawn."
    table = Table(("series", "looks", f"first ({unit})", f"most ({unit})", f"last ({unit})"), rows)
    return described(figure, caption, table)


def _timelines(
    result: BenchResult | ServingResult, configuration: str | None
) -> list[tuple[str, Mapping[str, list[Any]]]]:
    """Return the timeline that stands for a result, under its configuration's label; none where it has none."""
    recorded = result.samples.get(MEMORY_OVER_TIME) or {}
    if isinstance(result, BenchResult):
        largest = max(result.points, key=lambda point: point.batch_size, default=None)
        wanted = configuration or (largest.label if largest else "")
    else:
        wanted = "serving"
    timeline = recorded.get(wanted) or {}
    return [(wanted, timeline)] if timeline.get("time_ms") else []
