"""ROUGE of summaries, by the rouge-score package with the settings that TensorRT-LLM's summarize.py uses.

That script loads Hugging Face's ``evaluate`` metric "rouge" and prints its scores × 100: rouge-score's F-measure, its
default tokenizer, **no stemmer**, line breaks as the sentence breaks of rougeLsum, and the middle of the aggregator's
bootstrap (1,000 resamples after ``np.random.seed(0)``). The same is computed here, so that the numbers compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import EvaluationError, MissingPackageError
from .bootstrap import DEFAULT_SAMPLES, Interval, bootstrap_interval

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


@dataclass(frozen=True, kw_only=True)
class RougeScores:
    """ROUGE of a set of summaries.

    Attributes
    ----------
    per_article
        For each type, one F-measure × 100 an article.
    intervals
        For each type, the aggregate with its bootstrap interval, × 100.
    """

    per_article: dict[str, list[float]]
    intervals: dict[str, Interval]

    def score(self, rouge_type: str) -> float:
        """Return the aggregate of one type, × 100."""
        return self.intervals[rouge_type].score


def rouge_scores(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    rouge_types: Sequence[str] = ROUGE_TYPES,
    resamples: int = DEFAULT_SAMPLES,
    seed: int = 0,
    use_stemmer: bool = False,
) -> RougeScores:
    """Score summaries against their references.

    Parameters
    ----------
    predictions, references
        One text an article, in the same order. An empty prediction scores 0, which is its score, not a failure.
    rouge_types
        ``rouge1``, ``rouge2``, ``rougeL``, ``rougeLsum``.
    resamples, seed
        Of the bootstrap; 0 resamples give the plain mean.
    use_stemmer
        Porter stemming before words are matched; scores with and without it do not compare.

    Raises
    ------
    EvaluationError
        For lists of different length, empty lists, or an unknown type.
    MissingPackageError
        Without the rouge-score package; a score is never replaced by 0.
    """
    unknown = [name for name in rouge_types if name not in ROUGE_TYPES]
    if unknown or not rouge_types:
        raise EvaluationError(
            f"{unknown[0]!r} is not a ROUGE score of this project." if unknown else "No ROUGE score was asked for.",
            where="rouge_types",
            remedy=f"Choose from {', '.join(ROUGE_TYPES)}.",
        )
    if len(predictions) != len(references):
        raise EvaluationError(
            f"There are {len(predictions)} summaries for {len(references)} references.",
            remedy="Pass one reference a summary, in the same order.",
        )
    if not predictions:
        raise EvaluationError("There are no summaries to score.", remedy="Summarise at least one article.")
    scorer = _scorer(rouge_types, use_stemmer)
    per_article: dict[str, list[float]] = {name: [] for name in rouge_types}
    for prediction, reference in zip(predictions, references, strict=True):
        scores = scorer.score(reference, prediction)
        for name in rouge_types:
            per_article[name].append(100.0 * scores[name].fmeasure)
    return RougeScores(per_article=per_article, intervals=_intervals(per_article, resamples, seed))


def _scorer(rouge_types: Sequence[str], use_stemmer: bool) -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise MissingPackageError(
            "The package 'rouge-score' is needed to score summaries and is not installed.",
            remedy="Install it with: pip install rouge-score",
            details=str(error),
        ) from error
    return RougeScorer(list(rouge_types), use_stemmer=use_stemmer)


def _intervals(per_article: dict[str, list[float]], resamples: int, seed: int) -> dict[str, Interval]:
    import numpy as np

    # One state for all types, in their order: the aggregator draws one type after the other.
    stream = np.random.RandomState(seed)
    return {
        name: bootstrap_interval(values, resamples=resamples, seed=seed, stream=stream)
        for name, values in per_article.items()
    }
