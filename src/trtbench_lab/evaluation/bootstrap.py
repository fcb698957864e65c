"""Percentile bootstrap of a mean: how much a score would move with other articles of the same kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import EvaluationError

if TYPE_CHECKING:
    import numpy as np

DEFAULT_SAMPLES = 1000
DEFAULT_CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its bootstrap interval.

    Attributes
    ----------
    mean
        Mean of the `n` values.
    median
        Median of the resampled means; None without resampling.
    low, high
        Bounds of the central `confidence` of the resampled means; None without resampling.
    n
        Values that were averaged.
    resamples, confidence, seed
        How the interval was made.
    """

    mean: float
    median: float | None
    low: float | None
    high: float | None
    n: int
    resamples: int
    confidence: float = DEFAULT_CONFIDENCE
    seed: int = 0

    @property
    def score(self) -> float:
        """The median of the resampled means, which is what rouge-score's aggregator reports; else the mean."""
        return self.mean if self.median is None else self.median

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.score:.2f} (n {self.n})"
        return (
            f"{self.score:.2f} ({100 * self.confidence:.0f} % interval {self.low:.2f} to {self.high:.2f}, n {self.n})"
        )


def bootstrap_interval(
    values: Sequence[float],
    *,
    resamples: int = DEFAULT_SAMPLES,
    confidence: float = DEFAULT_CONFIDENCE,
    seed: int = 0,
    stream: np.random.RandomState | None = None,
) -> Interval:
    """Return the mean of `values` with the percentile interval of the means of resamples drawn with replacement.

    The resamples are those that rouge-score's ``BootstrapAggregator`` draws after ``np.random.seed(seed)``, without
    touching NumPy's global state.

    Parameters
    ----------
    values
        One score an article.
    resamples
        How many; 0 gives the mean alone.
    confidence
        Share of the resampled means inside the interval.
    seed
        Seed of the resampling.
    stream
        A random state to go on with, in place of `seed`: the aggregator draws score after score from one state.

    Raises
    ------
    EvaluationError
        For no values, or settings out of range.
    """
    import numpy as np

    if not values:
        raise EvaluationError("There are no values to average.", remedy="Score at least one article.")
    if not 0 < confidence < 1 or resamples < 0:
        raise EvaluationError(
            f"An interval of confidence {confidence} from {resamples} resamples is not possible.",
            remedy="Use a confidence between 0 and 1 and at least 0 resamples.",
        )
    scores = np.asarray(values, dtype=np.float64)
    mean = float(scores.mean())
    if resamples == 0:
        return Interval(
            mean=mean, median=None, low=None, high=None, n=len(scores), resamples=0, confidence=confidence, seed=seed
        )
    random = np.random.RandomState(seed) if stream is None else stream
    drawn = random.randint(0, len(scores), size=(resamples, len(scores)))
    tail = 100 * (1 - confidence) / 2
    low, median, high = np.percentile(scores[drawn].mean(axis=1), [tail, 50, 100 - tail])
    return Interval(
        mean=mean,
        median=float(median),
        low=float(low),
        high=float(high),
        n=len(scores),
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )
