"""Means and percentiles with their method and sample size attached, so that no number travels without them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

PERCENTILE_METHOD = "linear"
PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Summary of `n` samples; every field is in the unit of the samples.

    Percentiles are by linear interpolation (the same as ``numpy.percentile``'s default), the standard deviation is the
    population's (divisor n), as in the latency tools of the field.
    """

    n: int
    mean: float
    std: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    method: str = PERCENTILE_METHOD

    def as_metrics(self, tag: str) -> dict[str, int | float | None]:
        """Return ``{tag}_mean``, ``{tag}_p50`` … and ``{tag}_n``."""
        names = ("mean", "std", "min", "p50", "p90", "p95", "p99", "max", "n")
        return {f"{tag}_{name}": getattr(self, name) for name in names}


def percentile(samples: Sequence[float], q: float) -> float | None:
    """Return the q-th percentile (0 to 100) by linear interpolation, None for no samples.

    With the samples sorted as x[0] … x[n-1] and h = (n - 1)·q/100, the value is
    x[floor(h)] + (h - floor(h))·(x[floor(h)+1] - x[floor(h)]).
    """
    if not 0 <= q <= 100:
        raise ValueError(f"q is {q}; a percentile lies between 0 and 100")
    return _interpolated(sorted(samples), q) if samples else None


def distribution(samples: Sequence[float]) -> Distribution | None:
    """Summarise samples; None when there are none, because a missing measurement is not 0."""
    if not samples:
        return None
    ordered = sorted(float(value) for value in samples)
    n = len(ordered)
    mean = math.fsum(ordered) / n
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in ordered) / n)
    p50, p90, p95, p99 = (_interpolated(ordered, q) for q in PERCENTILES)
    return Distribution(n=n, mean=mean, std=std, min=ordered[0], p50=p50, p90=p90, p95=p95, p99=p99, max=ordered[-1])


def _interpolated(ordered: Sequence[float], q: float) -> float:
    position = (len(ordered) - 1) * q / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])
