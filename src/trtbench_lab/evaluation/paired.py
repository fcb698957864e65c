"""Paired bootstrap: both sides are resampled together, over the same windows of text or the same articles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import EvaluationError
from .quality_result import QualityMetric

if TYPE_CHECKING:
    import numpy as np

UNITS = {"top1": "%", "kl": "nats", "entities": "%"}
HIGHER_IS_BETTER = ("top1", "entities", "rouge1", "rouge2", "rougeL", "rougeLsum")


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How intervals are made.

    Attributes
    ----------
    resamples, confidence, seed
        Resamples drawn with replacement; share of them inside the interval; seed of the draws.
    """

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0


def paired_metric(
    name: str,
    sums: Sequence[Sequence[float]],
    statistic: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    *,
    of: str,
    bootstrap: Bootstrap,
) -> QualityMetric:
    """Return a measure of both sides with the intervals of its value, its change and its relative change.

    Parameters
    ----------
    name
        The measure.
    sums
        One row a unit (window or article) of whatever numbers are added up over units.
    statistic
        Totals (…, columns) → value and baseline (…), for the whole and for each resample.
    of
        What the units are.
    bootstrap
        How many resamples, and their seed.

    Raises
    ------
    EvaluationError
        With fewer than two units, over which nothing can be resampled.
    """
    import numpy as np

    table = np.asarray(sums, dtype=np.float64)  # (units, columns)
    count = len(table)
    if count < 2:
        raise EvaluationError(
            f"An interval of {name} needs two {of} or more, and there are {count}.",
            where=name,
            remedy="Give more text (--eval_tokens, --eval_dataset), a smaller --eval_window, or more --eval_articles.",
        )
    value, baseline = (float(part) for part in statistic(table.sum(axis=0)))
    draws = np.random.default_rng(bootstrap.seed).multinomial(count, np.full(count, 1 / count), bootstrap.resamples)
    values, baselines = statistic(draws @ table)
    tail = 100 * (1 - bootstrap.confidence) / 2
    low, high = _bounds(values, tail)
    change_low, change_high = _bounds(values - baselines, tail)
    relative: tuple[float | None, float | None, float | None] = (None, None, None)
    if baseline != 0 and bool((baselines != 0).all()):
        ratio = 100 * (values - baselines) / np.abs(baselines)
        relative = (100 * (value - baseline) / abs(baseline), *_bounds(ratio, tail))
    return QualityMetric(
        name=name,
        value=value,
        baseline=baseline,
        low=low,
        high=high,
        change=value - baseline,
        change_low=change_low,
        change_high=change_high,
        relative=relative[0],
        relative_low=relative[1],
        relative_high=relative[2],
        unit=UNITS.get(name, ""),
        direction="higher" if name in HIGHER_IS_BETTER else "lower",
        n=count,
        of=of,
    )


def _bounds(values: np.ndarray, tail: float) -> tuple[float, float]:
    import numpy as np

    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
