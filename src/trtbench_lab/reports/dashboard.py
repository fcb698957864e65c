"""Which figures a set of runs has, in three groups that never share one: engine-only, serving, quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..benchmark.metrics import SERIES
from ..benchmark.result import LABEL as ENGINE_ONLY
from ..benchmark.result import BenchResult
from ..benchmark.serving_result import LABEL as SERVING
from ..benchmark.serving_result import LATENCIES, ServingResult
from ..errors import SpecError, did_you_mean
from ..evaluation.quality_result import QualityResult
from ..results import Result
from .latency import itl_over_position, latency_distribution
from .memory import memory
from .memory_timeline import memory_over_time
from .pareto import quality_pareto
from .serving import serving_latency, serving_timeline
from .throughput_latency import (
    LATENCY_STATISTICS,
    SERVING_METRICS,
    serving_throughput_latency,
    share_of_limit,
    throughput_latency,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

GROUPS = {
    "engine": ENGINE_ONLY,
    "serving": SERVING,
    "quality": "quality: what a quantization costs, against its baseline",
}
KINDS = ("bench", "serving", "quality")
ENGINE_METRICS = tuple(item.tag for item in SERIES)
SERVED_METRICS = LATENCIES
MAX_TIMELINES = 3  # each is a figure of its own, as high as two


@dataclass(frozen=True)
class Panel:
    """One figure of the dashboard: a key that stays the same from one choice of runs to the next, its group, itself."""

    key: str
    group: str
    figure: go.Figure


def dashboard_panels(
    results: Sequence[Result],
    *,
    metric: str = "itl_ms",
    request_metric: str = "request_ttft_ms",
    measure: str | None = None,
    theme: str = "auto",
) -> list[Panel]:
    """Return the figures that suit a set of runs, static and serving benchmarks and quality reports, group by group.

    Parameters
    ----------
    results
        Any runs; kinds that no dashboard draws are passed over.
    metric
        Of static batches: one of `ENGINE_METRICS`.
    request_metric
        Of served requests: one of `SERVED_METRICS`.
    measure
        Of quality, for example ``"perplexity"``; None for the first that all reports have.
    theme
        As for every figure.

    Raises
    ------
    SpecError
        For a metric that is none of these.
    """
    for value, known, where in (
        (metric, ENGINE_METRICS, "metric"),
        (request_metric, SERVED_METRICS, "request_metric"),
    ):
        if value not in known:
            raise SpecError(f"There is no figure of {value!r}.", where=where, remedy=did_you_mean(value, known))
    benches = [result for result in results if isinstance(result, BenchResult)]
    served = [result for result in results if isinstance(result, ServingResult)]
    judged = [result for result in results if isinstance(result, QualityResult)]
    return [
        *(_engine(benches, metric, theme) if benches else []),
        *(_serving(served, request_metric, theme) if served else []),
        *(_quality(judged, measure, theme) if judged else []),
    ]


def shared_measures(results: Sequence[Result]) -> list[str]:
    """Return the measures of quality that all quality reports among the results have, in the first one's order."""
    judged = [result for result in results if isinstance(result, QualityResult)]
    names = [{entry.name for entry in result.quality} for result in judged]
    return [entry.name for entry in judged[0].quality if all(entry.name in known for known in names)] if judged else []


def _engine(results: list[BenchResult], metric: str, theme: str) -> list[Panel]:
    across = metric if metric in LATENCY_STATISTICS else "itl_ms"
    figures = {
        "distribution": latency_distribution(results, metric=metric, theme=theme),
        "itl-position": itl_over_position(results, theme=theme),
        "pareto": throughput_latency(results, metric=across, theme=theme),
        "limit": share_of_limit(results, theme=theme),
        "memory-time": memory_over_time(results, theme=theme),
        "memory-peaks": memory(results, theme=theme),
    }
    return [Panel(f"engine-{key}", "engine", figure) for key, figure in figures.items()]


def _serving(results: list[ServingResult], metric: str, theme: str) -> list[Panel]:
    across = metric if metric in SERVING_METRICS else "request_ttft_ms"
    figures = {
        "distribution": serving_latency(results, metric=metric, theme=theme),
        "pareto": serving_throughput_latency(results, metric=across, theme=theme),
        "memory-time": memory_over_time(results, theme=theme),
    }
    for result in results[:MAX_TIMELINES]:
        figures[f"timeline-{result.id}"] = serving_timeline(result, theme=theme)
    return [Panel(f"serving-{key}", "serving", figure) for key, figure in figures.items()]


def _quality(results: list[QualityResult], measure: str | None, theme: str) -> list[Panel]:
    names = shared_measures(results)
    chosen = measure if measure in names else None
    if not names:
        results = results[:1]  # reports without a common measure have no common axis
    return [
        Panel(f"quality-{across}", "quality", quality_pareto(results, quality=chosen, across=across, theme=theme))
        for across in ("size", "speed")
    ]
