"""Entity accuracy: the share of an article's expected names and figures that its summary holds exactly.

ROUGE counts common words, so a summary with the wrong name in it still scores high; this does not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import EvaluationError


def holds_entity(text: str, entity: str) -> bool:
    """Whether `text` holds `entity` exactly, as whole words: "2 May" is not in "12 May"."""
    return re.search(rf"(?<!\w){re.escape(entity)}(?!\w)", text) is not None


def entities_found(summary: str, entities: Sequence[str]) -> int:
    """Return how many of `entities` the summary holds."""
    return sum(holds_entity(summary, entity) for entity in entities)


def entity_accuracy(summaries: Sequence[str], entities: Sequence[Sequence[str]]) -> float | None:
    """Return 100 × entities found in their own summary / entities of all articles; None when no article names any.

    Raises
    ------
    EvaluationError
        For lists of different length.
    """
    if len(summaries) != len(entities):
        raise EvaluationError(
            f"There are {len(summaries)} summaries for {len(entities)} lists of entities.",
            remedy="Pass one list an article, in the same order.",
        )
    expected = sum(len(names) for names in entities)
    found = sum(entities_found(summary, names) for summary, names in zip(summaries, entities, strict=True))
    return 100.0 * found / expected if expected else None
