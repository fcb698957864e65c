"""The report of an exploration: what is slow, figures, and every layer to unfold."""

from __future__ import annotations

from ..explore.result import ExplorationPair, ExploreResult, layer_table
from .layers import engines_by_module, figures_of_exploration
from .sections import Folded, Section, Untitled


def exploration_sections(result: ExploreResult | ExplorationPair, *, theme: str = "auto") -> list[Section]:
    """Return the sections of one exploration, or of two engines against each other."""
    if isinstance(result, ExploreResult):
        return [_section(result, theme)]
    pair = Section(title="Engine against engine", items=[Untitled(result), engines_by_module(result, theme=theme)])
    return [pair, _section(result.first, theme), _section(result.second, theme)]


def _section(result: ExploreResult, theme: str) -> Section:
    everything = layer_table(result.layers, "Every layer, in the order of execution", total_ms=result.total_ms)
    items = [Untitled(result), *figures_of_exploration(result, theme=theme), Folded(everything)]
    return Section(title=result.title, items=items)
