"""ROUGE and entity accuracy of both sides' summaries, compared article by article."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import EvaluationError
from .entities import entities_found
from .paired import Bootstrap, paired_metric
from .quality_result import QualityMetric
from .summarize_result import SummarizeResult

if TYPE_CHECKING:
    import numpy as np


def summary_metrics(result: SummarizeResult, measures: Sequence[str], bootstrap: Bootstrap) -> list[QualityMetric]:
    """Return the measures asked for among rouge1, rouge2, rougeL, rougeLsum and entities, of the first beams.

    Raises
    ------
    EvaluationError
        When a side did not summarise, ROUGE of that kind was not scored, or no article names its entities.
    """
    if result.engine is None or result.hf is None:
        raise EvaluationError(
            "Summaries of both sides are needed to compare them.", where="max_drop", remedy="Add --test_hf."
        )
    found = []
    for name in measures:
        if name == "entities":
            found.append(paired_metric(name, _entity_sums(result), _share, of="articles", bootstrap=bootstrap))
        elif name.startswith("rouge"):
            sides = [side.rouge[0].per_article.get(name) for side in (result.engine, result.hf)]
            if sides[0] is None or sides[1] is None:
                raise EvaluationError(f"{name} was not scored.", where="rouge_types", remedy=f"Add {name} to them.")
            table = [(1.0, a, b) for a, b in zip(sides[0], sides[1], strict=True)]
            found.append(paired_metric(name, table, _mean, of="articles", bootstrap=bootstrap))
    return found


def _entity_sums(result: SummarizeResult) -> list[tuple[float, float, float]]:
    table = []
    for outcome in result.articles:
        if outcome.entities:
            summaries = (outcome.engine_texts[0], outcome.hf_texts[0])
            ours, theirs = (entities_found(text, outcome.entities) for text in summaries)
            table.append((float(len(outcome.entities)), float(ours), float(theirs)))
    if not table:
        raise EvaluationError(
            "No article names the entities that a summary should hold.",
            where="entities",
            remedy="Use the demo corpus, or records with a list 'entities'.",
        )
    return table


def _mean(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return sums[..., 1] / sums[..., 0], sums[..., 2] / sums[..., 0]


def _share(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return 100 * sums[..., 1] / sums[..., 0], 100 * sums[..., 2] / sums[..., 0]
