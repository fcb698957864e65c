"""An engine beside Hugging Face, as `compare` and `summarize` leave it: speed and ROUGE of both sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..results import METRICS, Table
from .figure import axis, described, empty_figure, escaped, new_figure
from .panels import Panel, panels_figure
from .theme import colours, plotly_graph_objects, theme_named, translucent

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ..evaluation.compare_result import CompareResult
    from ..evaluation.summarize_result import SummarizeResult


def side_labels(result: CompareResult) -> tuple[str, str]:
    """Return the names of Hugging Face's side and of the engine's, backends included."""
    return (
        f"Hugging Face {result.hf_dtype} [huggingface]",
        f"{result.name or result.model or 'engine'} [{result.backend}]",
    )


def compare_speed(result: CompareResult, *, theme: str = "auto") -> go.Figure:
    """Latency, time to first token and tokens per second of both sides of a comparison."""
    numbers = result.metrics
    panels = [
        Panel(tag, "", [numbers[f"{side}_{tag}"] for side in ("hf", "engine")])
        for tag in ("latency_ms", "ttft_ms", "tokens_per_sec")
    ]
    return panels_figure(
        "Engine and Hugging Face: speed",
        f"{len(result.prompts)} prompt(s), batch 1",
        side_labels(result),
        ["huggingface", result.backend],
        panels,
        caption=f"One clock, the same prompts, sides in turns; medians of {result.num_runs} run(s) a prompt, "
        "means over the prompts.",
        theme=theme,
    )


def summarize_speed(result: SummarizeResult, *, theme: str = "auto") -> go.Figure:
    """Total latency and tokens per second of the sides of a scored summarisation."""
    sides = sorted(result.sides, key=lambda side: side[0] == "engine")  # Hugging Face first: the reference
    panels = [
        Panel("total_latency_s", "", [side.total_latency_s for _, _, side in sides]),
        Panel("tokens_per_sec", "", [side.tokens_per_sec for _, _, side in sides]),
    ]
    return panels_figure(
        "Summarising: speed",
        f"{len(result.articles)} articles",
        [f"{name} [{side.backend}]" for _, name, side in sides],
        [side.backend for _, _, side in sides],
        panels,
        caption="From the call of generate to its return, summed over the batches; tokens of all beams.",
        theme=theme,
    )


def rouge_bars(results: SummarizeResult | Sequence[SummarizeResult], *, theme: str = "auto") -> go.Figure:
    """ROUGE of each side's first beam with its bootstrap interval, beside the threshold that the engine must exceed."""
    results = list(results) if isinstance(results, Sequence) else [results]
    series, labels, backends = [], [], []
    for result in results:
        for prefix, _, side in sorted(result.sides, key=lambda side: side[0] == "engine"):
            who = "Hugging Face" if prefix == "hf" else result.name or result.model or "engine"
            label = escaped(f"{who} [{side.backend}]")
            if prefix == "hf" and label in labels:
                continue  # scored once for several engines: the same bar need not stand there twice
            series.append(side)
            labels.append(label)
            backends.append(side.backend)
    title = "ROUGE of the summaries"
    if not series:
        return empty_figure(title, results, "No side was scored.", theme=theme)
    articles = len(results[0].articles)
    figure = new_figure(title, f"{articles} articles, first beam", theme=theme)
    go, rows = plotly_graph_objects(), []
    for side, label, colour in zip(series, labels, colours(backends), strict=True):
        intervals = side.rouge[0].intervals
        scores = [interval.score for interval in intervals.values()]
        above = [0.0 if i.high is None else i.high - i.score for i in intervals.values()]
        below = [0.0 if i.low is None else i.score - i.low for i in intervals.values()]
        figure.add_trace(
            go.Bar(
                x=[METRICS[tag].title for tag in intervals],
                y=scores,
                name=label,
                # Pale bars, so that a whisker in the full colour is seen inside them on any ground.
                marker={"color": translucent(colour, 0.55), "line": {"color": colour, "width": 1}},
                error_y={
                    "array": above,
                    "arrayminus": below,
                    "symmetric": False,
                    "thickness": 1.4,
                    "width": 5,
                    "color": colour,
                },
                hovertemplate="%{x}: %{y:.2f} (+%{error_y.array:.2f} −%{error_y.arrayminus:.2f})<extra>"
                + label
                + "</extra>",
            )
        )
        rows += [(label, METRICS[tag].title, i.score, i.low, i.high, i.n) for tag, i in intervals.items()]
    threshold = results[0].threshold
    if "rouge1" in series[0].rouge[0].intervals:
        figure.add_shape(
            type="line",
            x0=-0.5,
            x1=0.5,
            y0=threshold,
            y1=threshold,
            line={"dash": "dot", "width": 2, "color": theme_named(theme).muted},
            name=f"ROUGE-1 threshold {threshold:g}",
            showlegend=True,
        )
    figure.update_layout(barmode="group", yaxis=axis("F-measure × 100", rangemode="tozero"), showlegend=True)
    interval = next(iter(series[0].rouge[0].intervals.values()))
    caption = (
        f"Bars: median of {interval.resamples:,} bootstrap means; whiskers: the central "
        f"{100 * interval.confidence:.0f} % of them. Sides whose whiskers overlap widely are not told apart by so few "
        "articles."
        if interval.resamples
        else "Bars: mean over the articles."
    )
    return described(figure, caption, Table(("side", "score", "value", "low", "high", "n"), rows))
