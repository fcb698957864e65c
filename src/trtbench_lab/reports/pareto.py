"""Size, speed and quality of several quantizations, and which of them nothing else beats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import ResultsError
from ..evaluation.quality_result import CATALOGUE_TAGS, QualityMetric, QualityResult, SideCost
from ..results import Table, metric_of
from .figure import axis, described, empty_figure, escaped, new_figure, of_run, scaled_bytes
from .theme import BETTER, REFERENCE, plotly_graph_objects, translucent
from .throughput_latency import pareto_front

if TYPE_CHECKING:
    import plotly.graph_objects as go

_TITLE = "Quality, size and speed"
_DOT_PIXELS = (9.0, 30.0)


def quality_pareto(
    results: Sequence[QualityResult], *, quality: str | None = None, across: str = "size", theme: str = "auto"
) -> go.Figure:
    """A dot a quantization, with the interval of its quality; those that no other beats are joined by a line.

    Parameters
    ----------
    results
        Reports of one model against its baseline, one a quantization.
    quality
        The measure upwards, for example ``"perplexity"``, ``"kl"``, ``"rouge1"``; None takes the first that all have.
    across
        ``"size"``: weights, with the dot's area in proportion to speed where that was measured; ``"speed"``: time per
        output token, with the area in proportion to size.

    Raises
    ------
    ResultsError
        Without a measure that all results have, or for another axis.
    """
    if across not in ("size", "speed"):
        raise ResultsError(f"There is no axis {across!r}.", where="across", remedy="Choose size or speed.")
    if not results:
        return empty_figure(_TITLE, [], "There are no quality reports: make them with --report.", theme=theme)
    common = [m.name for m in results[0].quality if all(any(n.name == m.name for n in r.quality) for r in results)]
    if quality is None and common:
        quality = common[0]
    if quality not in common or quality is None:
        raise ResultsError(
            f"Not every report has the measure {quality!r}." if quality else "The reports share no measure.",
            where="quality",
            remedy=f"All have: {', '.join(common)}." if common else "Measure the same on each (--metrics).",
        )
    measures = [result.metric(quality) for result in results]
    label = _label(measures[0])
    xs = [_across(result.cost, across) for result in results]
    if any(x is None for x in xs):
        return empty_figure(_TITLE, results, f"Not every report knows the {across}: add --metrics speed.", theme=theme)
    places = [float(x) for x in xs if x is not None]
    divisor, unit = scaled_bytes(places) if across == "size" else (1.0, "ms")
    lower = measures[0].direction == "lower"
    ordered = [(place, -m.value if lower else m.value) for place, m in zip(places, measures, strict=True)]
    unbeaten = pareto_front(ordered)
    best = {i for i, place in enumerate(ordered) if place in unbeaten}
    others = [_across(result.cost, "speed" if across == "size" else "size") for result in results]
    models = " · ".join(dict.fromkeys(str(result.model) for result in results))
    figure = new_figure(_TITLE, f"{label} · {models}", theme=theme, height=460)
    go = plotly_graph_objects()
    front = sorted(best, key=lambda i: places[i])
    figure.add_trace(
        go.Scatter(
            x=[places[i] / divisor for i in front],
            y=[measures[i].value for i in front],
            mode="lines",
            line={"color": translucent(BETTER, 0.6), "width": 2, "shape": "hv"},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    for i, (result, measure) in enumerate(zip(results, measures, strict=True)):
        name = escaped(f"{result.name or result.cost.quantization} [{result.backend}]")
        figure.add_trace(
            go.Scatter(
                x=[places[i] / divisor],
                y=[measure.value],
                mode="markers+text",
                name=name,
                meta=of_run(result),
                text=[name],
                textposition="top center" if i % 2 else "bottom center",
                error_y={
                    "type": "data", "symmetric": False,
                    "array": [max(0.0, measure.high - measure.value)],
                    "arrayminus": [max(0.0, measure.value - measure.low)],
                },
                marker={
                    "size": _diameter(others, i, bigger_is_smaller=across == "size"),
                    "color": BETTER if i in best else REFERENCE,
                    "symbol": "circle" if i in best else "circle-open",
                },
                hovertemplate=f"{name}<br>%{{x:.3g}} {unit}<br>{escaped(label)} %{{y:.4g}}<extra></extra>",
            )
        )  # fmt: skip
    figure.add_hline(y=measures[0].baseline, line={"dash": "dot", "color": REFERENCE}, annotation_text="baseline")
    figure.update_layout(
        xaxis=axis(
            f"Weights ({unit})" if across == "size" else "Time per output token (ms)",
            range=[0, 1.25 * max(places) / divisor],
        ),
        yaxis=axis(label),
        showlegend=False,
    )
    caption = (
        f"{'Lower' if lower else 'Higher'} is better, left is {'smaller' if across == 'size' else 'quicker'}. Filled "
        "dots on the line are beaten by no other in both. Bars are bootstrap intervals; the dotted line is the "
        "baseline's. The vertical axis does not begin at zero. "
    )
    if all(other is not None for other in others):
        caption += f"The dot's area grows with {'speed' if across == 'size' else 'size'}."
    rows = [
        (r.name or c.quantization, r.backend, c.weights_bytes, c.tpot_ms, m.value, m.low, m.high, i in best)
        for i, (r, c, m) in enumerate(zip(results, [r.cost for r in results], measures, strict=True))
    ]
    columns = ("quantization", "backend", "weights (bytes)", "ms/token", label, "low", "high", "on the front")
    return described(figure, caption.strip(), Table(columns, rows))


def _across(cost: SideCost, which: str) -> float | None:
    return cost.weights_bytes if which == "size" else cost.tpot_ms


def _label(measure: QualityMetric) -> str:
    metric = metric_of(CATALOGUE_TAGS.get(measure.name, measure.name))
    return metric.label if metric else measure.name


def _diameter(values: Sequence[float | None], i: int, *, bigger_is_smaller: bool) -> float:
    """Pixels of a dot whose area is in proportion to the value, or to its inverse (speed from time)."""
    known = [value for value in values if value]
    value = values[i]
    if value is None or not value or len(known) < len(values):
        return 12.0
    share = min(known) / value if bigger_is_smaller else value / max(known)
    return max(_DOT_PIXELS[0], _DOT_PIXELS[1] * share**0.5)
