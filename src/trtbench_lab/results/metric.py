"""What is known of a metric beside its number: unit, direction, formula, definition, and what it is mistaken for."""

from __future__ import annotations

from dataclasses import dataclass

LOWER, HIGHER, NEITHER = "lower", "higher", "neither"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric's meaning.

    Attributes
    ----------
    tag
        Name as it stands in ``result.metrics``, unit included; statistics follow as ``_mean``, ``_p50`` …
    title
        Name for headings and axes, without the unit.
    unit
        ``"ms"``, ``"tokens/s"``, ``"bytes"`` … or ``""`` for a pure number.
    direction
        Which way is better: ``"lower"``, ``"higher"`` or ``"neither"``.
    formula
        In plain characters.
    definition
        What is measured, from where to where.
    trap
        What people confuse it with, or None.
    """

    tag: str
    title: str
    unit: str
    direction: str
    formula: str
    definition: str
    trap: str | None = None

    @property
    def label(self) -> str:
        """Title with unit, for an axis."""
        return f"{self.title} ({self.unit})" if self.unit else self.title
