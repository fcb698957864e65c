"""Limits on what a model may lose against its baseline: ``perplexity=1%``, ``rouge1=0.5``, ``top1=2``, ``kl=0.02``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import EvaluationError

if TYPE_CHECKING:
    from ..specs import MaxDrop
    from .quality_result import QualityMetric

PASSED, FAILED, NOT_SHOWN = "passed", "failed", "not shown"


@dataclass(frozen=True, kw_only=True)
class GateOutcome:
    """What became of one limit.

    Attributes
    ----------
    metric, limit, is_relative
        The measure; how much worse it may be, in its own unit or (`is_relative`) in per cent of the baseline.
    drop, drop_low, drop_high
        How much worse it is, with the bounds of the interval; negative where it is better.
    outcome
        ``"passed"``: the whole interval is within the limit. ``"failed"``: the drop is beyond it. ``"not shown"``: the
        drop is within the limit and the interval is not, so that other text could fail.
    sentence
        The same in words.
    """

    metric: str
    limit: float
    is_relative: bool
    drop: float
    drop_low: float
    drop_high: float
    outcome: str
    sentence: str


def gate_outcome(limit: MaxDrop, metric: QualityMetric, confidence: float) -> GateOutcome:
    """Judge a measure by a limit.

    Raises
    ------
    EvaluationError
        For a limit in per cent of a baseline that is 0.
    """
    found = metric.relative_drop if limit.is_relative else metric.drop
    if found is None:
        raise EvaluationError(
            f"{metric.name} of the baseline is 0, so a drop in per cent of it means nothing.",
            where="max_drop",
            remedy=f"Give the limit in its own unit: --max_drop {metric.name}={limit.amount:g}.",
        )
    drop, low, high = found
    outcome = FAILED if drop > limit.amount else PASSED if high <= limit.amount else NOT_SHOWN
    sign = "%" if limit.is_relative else f" {metric.unit}".rstrip()
    moved = "worse" if drop >= 0 else "better"
    words = (
        f"{metric.name} is {abs(drop):.3g}{sign} {moved} than the baseline ({metric.value:.4g} against "
        f"{metric.baseline:.4g}; {100 * confidence:.0f} % interval of the drop {low:.3g} to {high:.3g}{sign}, "
        f"{metric.n} {metric.of})"
    )
    allowed = f"{limit.amount:g}{sign}"
    if outcome == PASSED:
        sentence = f"PASSED: {words}; at most {allowed} was allowed."
    elif outcome == FAILED:
        sentence = f"FAILED: {words}; at most {allowed} was allowed."
    else:
        sentence = f"NOT SHOWN: {words}; the interval reaches beyond the {allowed} allowed: score more text to decide."
    return GateOutcome(
        metric=metric.name,
        limit=limit.amount,
        is_relative=limit.is_relative,
        drop=drop,
        drop_low=low,
        drop_high=high,
        outcome=outcome,
        sentence=sentence,
    )
