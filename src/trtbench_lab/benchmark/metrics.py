"""The numbers of a static batch, each a small function of the runs' timestamps; definitions stand in the catalogue."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..results.catalogue import METRICS
from ..results.metric import Metric
from ..runtime.timing import GenerationTiming

Runs = Sequence[GenerationTiming]


@dataclass(frozen=True)
class SeriesMetric:
    """A metric with one value a run (or, for ITL, one a gap): `values` gives them in milliseconds.

    A run that has no such value (a time per output token of a single token) gives none, never 0; a true zero is kept.
    """

    tag: str
    values: Callable[[Runs], list[float]]

    @property
    def metric(self) -> Metric:
        """Unit, direction, formula and definition."""
        return METRICS[self.tag]


def latency_ms(runs: Runs) -> list[float]:
    """tN − t0 of each run."""
    return _present([run.latency_ms for run in runs])


def ttft_ms(runs: Runs) -> list[float]:
    """t1 − t0 of each run."""
    return _present([run.ttft_ms for run in runs])


def itl_ms(runs: Runs) -> list[float]:
    """t(i+1) − t(i) of every pair of consecutive tokens, pooled over the runs: N − 1 values a run."""
    return [gap for run in runs for gap in run.inter_token_ms]


def tpot_ms(runs: Runs) -> list[float]:
    """(tN − t1) / (N − 1) of each run with N ≥ 2."""
    return _present([run.tpot_ms for run in runs])


def generation_time_ms(runs: Runs) -> list[float]:
    """tN − t1 of each run with N ≥ 2."""
    return _present([run.generation_ms for run in runs])


SERIES = (
    SeriesMetric("latency_ms", latency_ms),
    SeriesMetric("ttft_ms", ttft_ms),
    SeriesMetric("itl_ms", itl_ms),
    SeriesMetric("tpot_ms", tpot_ms),
    SeriesMetric("generation_time_ms", generation_time_ms),
)


def tokens_per_sec(runs: Runs, *, batch_size: int, output_length: int) -> float | None:
    """batch · output_len / mean latency; None without runs or when the clock saw no time pass."""
    return _rate(batch_size * output_length, latency_ms(runs))


def generation_tokens_per_second(runs: Runs, *, batch_size: int, output_length: int) -> float | None:
    """batch · (output_len − 1) / mean generation time; None with a single token, which has no decode step."""
    return _rate(batch_size * (output_length - 1), generation_time_ms(runs))


def share_of_read_bandwidth(
    step_ms: float | None, *, read_bytes: int | None, bandwidth_bytes_per_s: float | None
) -> float | None:
    """100 · bytes read by a decode step / its time / measured read bandwidth, in per cent."""
    if not step_ms or read_bytes is None or not bandwidth_bytes_per_s:
        return None
    return 100.0 * read_bytes / (step_ms / 1e3) / bandwidth_bytes_per_s


def _rate(tokens: int, times_ms: Sequence[float]) -> float | None:
    total_ms = math.fsum(times_ms)
    return tokens / (total_ms / len(times_ms) / 1e3) if total_ms else None


def _present(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]
