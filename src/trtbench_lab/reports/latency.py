"""Figures of time: percentiles of a latency, and the gaps between tokens along the output."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..benchmark.result import BenchPoint, BenchResult
from ..errors import SpecError, did_you_mean
from ..results import METRICS, Result, Table
from ..results.statistics import PERCENTILE_METHOD, PERCENTILES, percentile
from .figure import axis, buckets, described, empty_figure, evenly, new_figure, series_title, tag_run
from .sides import side_labels
from .theme import DASHES, colours, plotly_graph_objects, translucent

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ..evaluation.compare_result import CompareResult

Series = tuple[BenchResult, BenchPoint, str, str]  # with colour and dash
GapSeries = tuple[Result, str, list[list[float]], str, str]  # label, gaps of each run, colour, dash
_SERIES_METRICS = ("latency_ms", "ttft_ms", "itl_ms", "tpot_ms", "generation_time_ms")
_EVERY_POSITION = 12  # outputs shorter than this have a tick at each token
MAX_SERIES = 8  # more curves than colours and dashes can tell apart


def latency_distribution(
    results: BenchResult | Sequence[BenchResult], *, metric: str = "latency_ms", theme: str = "auto"
) -> go.Figure:
    """Percentile curves: how many of the runs took at most so long, with p50, p90, p95 and p99 marked.

    The curve joins the sorted samples linearly, which is the very definition of the percentiles stated beside it; so
    ten runs look like ten runs, and ten thousand like a smooth distribution.

    Parameters
    ----------
    results
        One benchmark, or several to compare.
    metric
        ``"latency_ms"``, ``"ttft_ms"``, ``"itl_ms"``, ``"tpot_ms"`` or ``"generation_time_ms"``.
    """
    if metric not in _SERIES_METRICS:
        raise SpecError(f"No distribution of {metric!r}.", where="metric", remedy=did_you_mean(metric, _SERIES_METRICS))
    results = _listed(results)
    named = METRICS[metric]
    title = f"{named.title}: distribution over {'gaps' if metric == 'itl_ms' else 'runs'}"
    series, shape = _series(results)
    figure = new_figure(title, _subtitle(shape), theme=theme)
    rows = []
    for result, point, colour, dash in series:
        samples = sorted(point.series(metric))
        summary = point.distributions[metric]
        if summary is None:
            continue
        label = series_title(result, f"n = {summary.n}" if shape else f"{_shape(point)}, n = {summary.n}")
        first = len(figure.data)
        _add_curve(figure, samples, label, colour, dash)
        tag_run(figure, first, result)
        marked = [getattr(summary, f"p{q}") for q in PERCENTILES]
        rows.append((label, summary.n, summary.mean, *marked, summary.max))
    if not rows:
        return empty_figure(title, results, f"No run has a value of {named.title.lower()}.", theme=theme)
    figure.update_layout(
        showlegend=True,
        xaxis=axis(named.label, rangemode="normal"),
        yaxis=axis("samples at or below (%)", range=[-2, 104], tickvals=[0, 50, 90, 99], ticksuffix=" "),
        hovermode="closest",
    )
    caption = (
        f"{named.title}: {named.definition} Dots mark p50, p90, p95 and p99 by {PERCENTILE_METHOD} interpolation; "
        "left is better."
    )
    columns = ("series", "n", "mean (ms)", *(f"p{q} (ms)" for q in PERCENTILES), "max (ms)")
    return described(figure, caption, Table(columns, rows))


def itl_over_position(
    results: BenchResult | CompareResult | Sequence[BenchResult | CompareResult], *, theme: str = "auto"
) -> go.Figure:
    """The gap before each token along the output: the median of the runs, and the band from the fastest to the slowest.

    Outputs longer than the figure can resolve are gathered into buckets whose band keeps every extreme. Of a
    comparison the prompts stand in for the runs.
    """
    results = [results] if isinstance(results, Result) else list(results)
    title = "Inter-token latency along the output"
    series, shape = _gap_series(results)
    figure = new_figure(title, _subtitle(shape), theme=theme)
    rows, longest = [], 0
    for result, label, gaps, colour, dash in series:
        positions, low, middle, high = _bands(gaps)
        longest = max(longest, positions[-1])
        first = len(figure.data)
        _add_band(figure, positions, low, middle, high, label, colour, dash)
        tag_run(figure, first, result)
        rows.append((label, len(gaps), middle[0], middle[len(middle) // 2], middle[-1], min(low), max(high)))
    if not rows:
        return empty_figure(title, results, "No run has two tokens, so there is no gap to show.", theme=theme)
    figure.update_layout(
        showlegend=True,
        xaxis=axis("position of the token in the output", dtick=1 if longest < _EVERY_POSITION else None),
        yaxis=axis(METRICS["itl_ms"].label, rangemode="tozero"),
        hovermode="x unified",
    )
    caption = (
        "Line: median of the runs; band: fastest to slowest run. A line that rises shows the growing cache; a lone "
        "peak in the band is one slow run. The first token has no gap (see time to first token)."
    )
    columns = ("series", "runs", "first gap (ms)", "middle (ms)", "last (ms)", "fastest (ms)", "slowest (ms)")
    return described(figure, caption, Table(columns, rows))


def _gap_series(
    results: Sequence[BenchResult | CompareResult],
) -> tuple[list[GapSeries], str]:
    """Return each series that has gaps, and the shape that all share."""
    found: list[GapSeries] = []
    benches = [result for result in results if isinstance(result, BenchResult)]
    series, shape = _series(benches)
    for result, point, colour, dash in series:
        gaps = [timing.inter_token_ms for timing in point.timings]
        detail = f"{len(gaps)} runs" if shape else f"{_shape(point)}, {len(gaps)} runs"
        found.append((result, series_title(result, detail), gaps, colour, dash))
    for comparison in results:
        if isinstance(comparison, BenchResult):
            continue
        shape = shape or f"{len(comparison.prompts)} prompt(s) × {comparison.num_runs} run(s), batch 1"
        for side, label, colour in zip(
            ("hf", "engine"), side_labels(comparison), colours(["huggingface", comparison.backend]), strict=True
        ):
            stamps = [run for prompt in comparison.prompts for run in getattr(prompt, side).token_ns]
            gaps = [[(b - a) / 1e6 for a, b in itertools.pairwise(run)] for run in stamps]
            found.append((comparison, label, gaps, colour, "solid"))
    return [item for item in found if any(item[2])], shape


def _add_curve(figure: go.Figure, samples: list[float], label: str, colour: str, dash: str) -> None:
    go = plotly_graph_objects()
    chosen = evenly(len(samples))
    shares = [100.0 * i / (len(samples) - 1) if len(samples) > 1 else 100.0 for i in chosen]
    few = len(samples) <= 60
    figure.add_trace(
        go.Scatter(
            x=[samples[i] for i in chosen],
            y=shares,
            mode="lines+markers" if few else "lines",
            name=label,
            legendgroup=label,
            line={"color": colour, "width": 2, "dash": dash},
            marker={"size": 4, "color": colour},
            hovertemplate="%{x:.3f} ms<br>%{y:.1f} % of samples<extra>" + label + "</extra>",
        )
    )
    marks = [percentile(samples, q) for q in PERCENTILES]
    figure.add_trace(
        go.Scatter(
            x=marks,
            y=list(PERCENTILES),
            mode="markers",
            showlegend=False,
            legendgroup=label,
            marker={"size": 9, "color": colour, "line": {"width": 1.5, "color": "rgba(255,255,255,.85)"}},
            hovertemplate="p%{y}: %{x:.3f} ms<extra>" + label + "</extra>",
        )
    )


def _add_band(
    figure: go.Figure,
    positions: list[int],
    low: list[float],
    middle: list[float],
    high: list[float],
    label: str,
    colour: str,
    dash: str,
) -> None:
    go = plotly_graph_objects()
    figure.add_trace(
        go.Scatter(
            x=positions + positions[::-1],
            y=high + low[::-1],
            mode="lines",
            fill="toself",
            fillcolor=translucent(colour, 0.16),
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=label,
        )
    )
    figure.add_trace(
        go.Scatter(
            x=positions,
            y=middle,
            name=label,
            legendgroup=label,
            mode="lines" if len(positions) > 1 else "markers",
            line={"color": colour, "width": 2, "dash": dash},
            customdata=list(zip(low, high, strict=True)),
            hovertemplate="%{y:.3f} ms (%{customdata[0]:.3f} to %{customdata[1]:.3f})",
        )
    )


def _bands(gaps: list[list[float]]) -> tuple[list[int], list[float], list[float], list[float]]:
    """Return position of the token, smallest, median and largest gap; `gaps` has a list a run, of any lengths."""
    positions, low, middle, high = [], [], [], []
    for piece in buckets(max(len(run) for run in gaps)):
        values = sorted(run[i] for run in gaps for i in piece if i < len(run))
        positions.append(piece.start + 2)  # gap 0 lies before the second token
        low.append(values[0])
        middle.append(percentile(values, 50) or 0.0)
        high.append(values[-1])
    return positions, low, middle, high


def _listed(results: BenchResult | Sequence[BenchResult]) -> list[BenchResult]:
    return [results] if isinstance(results, BenchResult) else list(results)


def _series(results: Sequence[BenchResult]) -> tuple[list[Series], str]:
    """Return each configuration of each result (a colour a result, a dash a configuration), and the shape all share."""
    found: list[Series] = []
    for result, colour in zip(results, colours([result.backend for result in results]), strict=True):
        for i, point in enumerate(result.points):
            found.append((result, point, colour, DASHES[i % len(DASHES)]))
    if len(found) > MAX_SERIES:
        # Too many curves to read: the first configuration of each result stands for it.
        first = results[0].points[0].label
        found = [item for item in found if item[1].label == first]
    shapes = {_shape(item[1]) for item in found}
    return found, shapes.pop() if len(shapes) == 1 else ""


def _subtitle(shape: str) -> str:
    return f"engine-only · {shape or 'several configurations'}"


def _shape(point: BenchPoint) -> str:
    beams = f", {point.num_beams} beams" if point.num_beams > 1 else ""
    return f"batch {point.batch_size}, {point.input_length} in, {point.output_length} out{beams}"
