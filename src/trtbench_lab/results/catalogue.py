"""Every metric by its tag, and from the flat names of results back to it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .definitions.memory import MACHINE_LIMIT, MEMORY
from .definitions.quality import QUALITY, ROUGE
from .definitions.serving import SERVING
from .definitions.time import STATIC_BATCH, WHOLE_RUN
from .metric import NEITHER, Metric

_STATISTIC = re.compile(r"_(mean|std|min|max|n|low|high|p\d{1,2}(?:_\d)?)$")

METRICS: dict[str, Metric] = {
    metric.tag: metric
    for group in (STATIC_BATCH, SERVING, MEMORY, MACHINE_LIMIT, ROUGE, QUALITY, WHOLE_RUN)
    for metric in group
}
"""Shown next to numbers and used to compare them, in the order in which a report defines them."""


def metric_of(name: str) -> Metric | None:
    """Return the metric that a flat name belongs to, or None.

    A name may carry a prefix that ends with a dot (``"b1_i60_o20."``), leading words (``"engine_"``, ``"hf_"``) and a
    trailing statistic (``"_mean"``, ``"_p99"``): ``"b1_i60_o20.ttft_ms_p50"`` is ``ttft_ms``.
    """
    words = _STATISTIC.sub("", name.rsplit(".", 1)[-1])
    while words:
        if words in METRICS:
            return METRICS[words]
        _, _, words = words.partition("_")
    return None


def direction_of(name: str) -> str:
    """Return which way is better for a flat name; a sample size or spread is ``"neither"`` or ``"lower"``."""
    if name.endswith("_n"):
        return NEITHER
    metric = metric_of(name)
    return metric.direction if metric else NEITHER


def metrics_named(names: Iterable[str]) -> list[Metric]:
    """Return the distinct metrics behind flat names, in the catalogue's order."""
    tags = {metric.tag for name in names if (metric := metric_of(name))}
    return [metric for tag, metric in METRICS.items() if tag in tags]
