"""One number from each rank's: which rule a metric follows is read from its name.

| metric | merged | why |
|---|---|---|
| time and latency: `…_ms`, `…_s`, `…_us`, `…_seconds` | the largest | a step ends when its slowest rank ends |
| memory: `…_bytes`, `…_mb`, `…_gb` | the sum; each rank's stays beside it | ranks share a model |
| tokens, requests, scores and everything else | rank 0's | every rank sees the same tokens; rank 0 speaks |
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Number = int | float

# A rate is no time: `tokens_per_s` and `tokens_per_sec` stay with rank 0.
_TIME = re.compile(r"(?:\A|_)(ms|s|us|ns|sec|seconds)(_p\d+|_mean|_median|_max|_min)?\Z|latency|elapsed")
_MEMORY = re.compile(r"(bytes|_mb|_gb|_mib|_gib|memory|gpu_peak_mem.*)\Z")


@dataclass(frozen=True)
class MergedMetric:
    """A metric of all ranks.

    Attributes
    ----------
    value
        The merged number; None where no rank has one.
    rule
        ``"max"``, ``"sum"`` or ``"rank 0"``.
    by_rank
        Each rank's own, in the order of the ranks; None where one has none.
    """

    value: Number | None
    rule: str
    by_rank: tuple[Number | None, ...]


def rule_of(name: str) -> str:
    """Return how the metric `name` is merged: ``"max"``, ``"sum"`` or ``"rank 0"``."""
    lowered = name.lower()
    if _MEMORY.search(lowered):
        return "sum"
    return "max" if _TIME.search(lowered) and "per_s" not in lowered else "rank 0"


def merge_metrics(by_rank: Sequence[Mapping[str, Number | None]]) -> dict[str, MergedMetric]:
    """Merge the metrics of the ranks, given in the order of the ranks; see this module's table for the rules."""
    names = dict.fromkeys(name for metrics in by_rank for name in metrics)
    return {name: _merged(name, tuple(metrics.get(name) for metrics in by_rank)) for name in names}


def _merged(name: str, values: tuple[Number | None, ...]) -> MergedMetric:
    rule = rule_of(name)
    there = [value for value in values if value is not None]
    if rule == "rank 0" or not there:
        return MergedMetric(values[0] if values else None, rule, values)
    return MergedMetric(max(there) if rule == "max" else sum(there), rule, values)
