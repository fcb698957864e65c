"""Metrics of several results side by side, with ratios against the first and the better direction."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..errors import ResultsError, did_you_mean
from .base import Number, Result
from .catalogue import direction_of, metric_of
from .environment import machine_of
from .metric import HIGHER, LOWER
from .render import Table, format_value, html_document, plain_document


@dataclass(frozen=True, kw_only=True)
class ComparedMetric:
    """One metric over all compared results.

    Attributes
    ----------
    name, unit, direction
        Flat name, its unit, and ``"lower"``, ``"higher"`` or ``"neither"`` is better.
    values
        One value a result, None where the result has no such number.
    ratios
        Value over the first result's value; None where one of them is missing or the first is 0.
    """

    name: str
    unit: str
    direction: str
    values: tuple[Number | None, ...]
    ratios: tuple[float | None, ...]

    @property
    def best(self) -> int | None:
        """Index of the best value, None without a direction, with fewer than two values, or when all are equal."""
        present = [(value, i) for i, value in enumerate(self.values) if value is not None]
        if self.direction not in (LOWER, HIGHER) or len({value for value, _ in present}) < 2:
            return None
        return (min if self.direction == LOWER else max)(present, key=lambda pair: pair[0])[1]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Several results side by side; the first is the one that the others are measured against."""

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[ComparedMetric, ...]
    warnings: tuple[str, ...] = field(default=())

    def tables(self) -> list[Table]:
        """One table: a row a metric; ratios in brackets; ``*`` marks the best where a direction is known."""
        rows = []
        for metric in self.metrics:
            cells = []
            for i, (value, ratio) in enumerate(zip(metric.values, metric.ratios, strict=True)):
                text = format_value(value)
                if i and ratio is not None:
                    text += f" (×{format_value(float(ratio))})"
                cells.append(f"{text} *" if metric.best == i else text)
            rows.append((metric.name, metric.direction, *cells))
        note = "Ratios are against the first column; * marks the best value."
        return [Table(("metric", "better", *self.labels), rows, note="\n".join([*self.warnings, note]))]

    def to_csv(self) -> str:
        """Return the comparison as CSV text: metric, unit, direction, then value and ratio of each result."""
        out = io.StringIO()
        writer = csv.writer(out)
        columns = [part for key in self.ids for part in (key, f"{key}_ratio")]
        writer.writerow(["metric", "unit", "better", *columns])
        for metric in self.metrics:
            pairs = zip(metric.values, metric.ratios, strict=True)
            writer.writerow([metric.name, metric.unit, metric.direction, *(cell for pair in pairs for cell in pair)])
        return out.getvalue()

    def __repr__(self) -> str:
        return plain_document("Comparison", self._byline, self.tables())

    def _repr_html_(self) -> str:
        return html_document("Comparison", self._byline, self.tables())

    @property
    def _byline(self) -> str:
        return "ids " + ", ".join(self.ids)


def compare_results(results: Sequence[Result], metrics: Iterable[str] | None = None) -> Comparison:
    """Set results side by side.

    Parameters
    ----------
    results
        Two or more; the first is the reference of the ratios. Kinds may differ: a metric that only some have is shown.
    metrics
        Flat names, or tags that select every statistic of theirs (``"ttft_ms"``); None for all of the first result's
        and whatever the others add.

    Raises
    ------
    ResultsError
        For fewer than two results, or a metric that none of them has.
    """
    if len(results) < 2:
        raise ResultsError(f"{len(results)} result(s) cannot be compared.", remedy="Name two results or more.")
    views = [result.metrics for result in results]
    names = list(dict.fromkeys(name for view in views for name in view))
    if metrics is not None:
        names = _selected(names, list(metrics))
    compared = []
    for name in names:
        values = tuple(view.get(name) for view in views)
        first = values[0]
        ratios = tuple(None if value is None or not first else value / first for value in values)
        known = metric_of(name)
        compared.append(
            ComparedMetric(
                name=name,
                unit=known.unit if known else "",
                direction=direction_of(name),
                values=values,
                ratios=ratios,
            )
        )
    return Comparison(
        ids=tuple(result.id for result in results),
        labels=tuple(label_of(result) for result in results),
        metrics=tuple(compared),
        warnings=tuple(_warnings(results)),
    )


def label_of(result: Result) -> str:
    """Return a short heading: the person's name for the run or the model, and always the backend."""
    return f"{result.name or result.model or result.id} [{result.backend}]"


def _selected(names: list[str], wanted: list[str]) -> list[str]:
    chosen: list[str] = []
    for want in wanted:
        found = [name for name in names if name == want] or [name for name in names if _belongs(name, want)]
        if not found:
            raise ResultsError(
                f"None of the results has the metric {want!r}.", where="metrics", remedy=did_you_mean(want, names)
            )
        chosen += [name for name in found if name not in chosen]
    return chosen


def _belongs(name: str, tag: str) -> bool:
    bare = name.rsplit(".", 1)[-1]
    metric = metric_of(name)
    return bare == tag or (metric is not None and metric.tag == tag)


def _warnings(results: Sequence[Result]) -> list[str]:
    """Say what makes the numbers less comparable than they look."""
    found = []
    machines = {machine_of(result.environment) for result in results}
    if len(machines) > 1:
        found.append("Not the same machine: the results come from " + "; ".join(sorted(machines)) + ".")
    models = {result.model for result in results}
    if len(models) > 1:
        found.append("Not the same model: " + ", ".join(sorted(str(model) for model in models)) + ".")
    return found
