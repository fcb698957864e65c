"""What figures of layers share: the colour of each sort of work, and the line under a title."""

from __future__ import annotations

from ..explore.result import ExploreResult
from .theme import OKABE_ITO, REFERENCE

# Kinds that take most of the time have colours of their own; the rest share a grey.
KIND_COLOURS = {
    "matmul": OKABE_ITO[0],
    "attention": OKABE_ITO[1],
    "norm": OKABE_ITO[2],
    "pointwise": OKABE_ITO[3],
    "embedding": OKABE_ITO[4],
    "softmax": OKABE_ITO[5],
}
EVERYTHING_ELSE = "everything else"


def shown_kind(kind: str) -> str:
    """Return the entry of the legend that a kind belongs to."""
    return kind if kind in KIND_COLOURS else EVERYTHING_ELSE


def colour_of(kind: str) -> str:
    """Return a kind's colour."""
    return KIND_COLOURS.get(kind, REFERENCE)


def subtitle_of(result: ExploreResult) -> str:
    """Return whose layers they are, what was read, and what was run."""
    words = [result.name or result.model or result.source, f"[{result.backend}]", result.form, result._what]
    return " · ".join(word for word in words if word)
