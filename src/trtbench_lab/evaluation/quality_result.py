"""What holding a model against its float baseline leaves behind: quality with intervals, cost, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..errors import EvaluationError
from ..results import Result, Table
from .gate import FAILED, NOT_SHOWN, PASSED, GateOutcome


@dataclass(frozen=True, kw_only=True)
class QualityMetric:
    """One measure of quality of both sides, and how far they are apart.

    Attributes
    ----------
    name
        ``"perplexity"``, ``"top1"``, ``"kl"``, ``"rouge1"`` … ``"entities"``.
    value, baseline
        Of the model that is judged and of its baseline. The baseline's KL divergence from itself is 0 and its agreement
        with itself 100, by definition.
    low, high
        Bounds of the central `confidence` of the resampled values.
    change, change_low, change_high
        ``value − baseline`` with the bounds of its resamples. Both sides are resampled together, so what makes a text
        hard for both does not widen them.
    relative, relative_low, relative_high
        100 · change / baseline; None where the baseline is 0.
    unit
        ``"%"``, ``"nats"`` or empty.
    direction
        Which way is better: ``"lower"`` or ``"higher"``.
    n, of
        What was resampled, and how many there are: ``"windows"`` of text or ``"articles"``.
    """

    name: str
    value: float
    baseline: float
    low: float
    high: float
    change: float
    change_low: float
    change_high: float
    relative: float | None
    relative_low: float | None
    relative_high: float | None
    unit: str
    direction: str
    n: int
    of: str

    @property
    def drop(self) -> tuple[float, float, float]:
        """How much worse the model is, with its least and most: positive is worse."""
        return _worse(self.direction, self.change, self.change_low, self.change_high)

    @property
    def relative_drop(self) -> tuple[float, float, float] | None:
        """The same in per cent of the baseline; None where that is 0."""
        if self.relative is None or self.relative_low is None or self.relative_high is None:
            return None
        return _worse(self.direction, self.relative, self.relative_low, self.relative_high)


def _worse(direction: str, middle: float, low: float, high: float) -> tuple[float, float, float]:
    return (middle, low, high) if direction == "lower" else (-middle, -high, -low)


@dataclass(frozen=True, kw_only=True)
class SideCost:
    """What one side costs.

    Attributes
    ----------
    label, backend, dtype, quantization
        Who it is; the type it computes in and the quantization as people say it.
    weights_bytes
        Weights as that side stores them; None where it does not tell.
    ttft_ms, tpot_ms
        Time to first token and time per output token at batch 1, medians of the runs; None where speed was not
        measured.
    ttft_ms_low, ttft_ms_high, tpot_ms_low, tpot_ms_high
        Least and most of the runs.
    """

    label: str
    backend: str
    dtype: str
    quantization: str = "none"
    weights_bytes: int | None = None
    ttft_ms: float | None = None
    ttft_ms_low: float | None = None
    ttft_ms_high: float | None = None
    tpot_ms: float | None = None
    tpot_ms_low: float | None = None
    tpot_ms_high: float | None = None


@dataclass(frozen=True, kw_only=True)
class QualityResult(Result):
    """A model against its float baseline; `backend` is the model's.

    Attributes
    ----------
    quality
        One entry a measure.
    cost, baseline_cost
        Time and memory of both sides.
    text
        What the tokens came from: source, texts, tokens, window, stride.
    articles
        Articles that were summarised; 0 without summaries.
    resamples, confidence, seed
        Of the bootstrap.
    gates
        The limits that were asked for, each with its outcome.
    layers
        The per-layer report of the quantization (`quantization.report.LayerError` as dictionaries), where it is known.
    notes
        Sentences a person should read.
    """

    kind: ClassVar[str] = "quality"

    quality: list[QualityMetric]
    cost: SideCost
    baseline_cost: SideCost
    text: dict[str, Any] = field(default_factory=dict)
    articles: int = 0
    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0
    gates: list[GateOutcome] = field(default_factory=list)
    layers: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def metric(self, name: str) -> QualityMetric:
        """Return a measure by name.

        Raises
        ------
        EvaluationError
            When it was not measured.
        """
        for metric in self.quality:
            if metric.name == name:
                return metric
        raise EvaluationError(
            f"The quality measure {name!r} was not taken.",
            where=self.id,
            remedy=f"Ask for it with --metrics; there are {', '.join(metric.name for metric in self.quality)}.",
        )

    @property
    def passed(self) -> bool | None:
        """Whether every limit is shown to be kept; None without a limit."""
        return all(gate.outcome == PASSED for gate in self.gates) if self.gates else None

    @property
    def verdict(self) -> str:
        """The limits in one plain sentence each, the worst outcome first."""
        if not self.gates:
            return "No limit was asked for (--max_drop)."
        order = (FAILED, NOT_SHOWN, PASSED)
        return "\n".join(gate.sentence for gate in sorted(self.gates, key=lambda gate: order.index(gate.outcome)))

    @property
    def exit_code(self) -> int:
        """0 where every limit is shown to be kept or none was asked for, 1 otherwise."""
        return 1 if self.passed is False else 0

    def check(self) -> None:
        """Raise `EvaluationError` with the verdict unless every limit is shown to be kept."""
        if self.passed is False:
            raise EvaluationError(
                self.verdict, where="max_drop", remedy="Choose a milder quantization, or score more text."
            )

    @property
    def metrics(self) -> dict[str, int | float | None]:
        found: dict[str, int | float | None] = {}
        for metric in self.quality:
            tag = CATALOGUE_TAGS.get(metric.name, metric.name)
            found[tag] = metric.value
            found[f"{tag}_low"], found[f"{tag}_high"] = metric.low, metric.high
            found[f"baseline_{tag}"] = metric.baseline
            if metric.relative is not None:
                found[f"{tag}_change_percent"] = metric.relative
        for prefix, cost in (("", self.cost), ("baseline_", self.baseline_cost)):
            found[f"{prefix}weights_bytes"] = cost.weights_bytes
            found[f"{prefix}ttft_ms"], found[f"{prefix}tpot_ms"] = cost.ttft_ms, cost.tpot_ms
        ours, theirs = self.cost.weights_bytes, self.baseline_cost.weights_bytes
        found["size_ratio"] = ours / theirs if ours and theirs else None
        return found

    def tables(self) -> list[Table]:
        """The verdict, quality, cost, and the layers that lost most."""
        tables = [self._verdict_table()] if self.gates else []
        tables += [self._quality_table(), self._cost_table()]
        if self.layers:
            tables.append(_layers_table(self.layers))
        if self.notes:
            tables.append(Table(columns=("notes",), rows=[(note,) for note in self.notes]))
        return tables

    def _verdict_table(self) -> Table:
        word = "PASSED" if self.passed else "FAILED" if any(g.outcome == FAILED for g in self.gates) else "NOT SHOWN"
        return Table(columns=("verdict",), rows=[(line,) for line in self.verdict.splitlines()], title=word)

    def _quality_table(self) -> Table:
        rows = []
        for m in self.quality:
            name = f"{METRIC_TITLES.get(m.name, m.name)} ({m.unit})" if m.unit else METRIC_TITLES.get(m.name, m.name)
            rows.append((name, m.value, m.baseline, m.change, m.change_low, m.change_high, m.relative, f"{m.n} {m.of}"))
        percent = f"{100 * self.confidence:.0f} %"
        bounds = (f"{percent} low", f"{percent} high")
        columns = ("quality", "this model", "baseline", "change", *bounds, "change (%)", "resampled")
        note = (
            f"Baseline: {self.baseline_cost.label} [{self.baseline_cost.backend}, {self.baseline_cost.dtype}]. "
            f"Bounds of {self.resamples:,} paired bootstrap resamples (seed {self.seed}): both sides on the same text."
        )
        return Table(columns=columns, rows=rows, title="Quality", note=note)

    def _cost_table(self) -> Table:
        ours, theirs = self.cost, self.baseline_cost
        rows: list[tuple[Any, ...]] = [
            ("backend", ours.backend, theirs.backend, None),
            ("quantization", ours.quantization, theirs.quantization, None),
        ]
        for name, label in (
            ("weights_bytes", "weights (bytes)"),
            ("ttft_ms", "time to first token (ms)"),
            ("tpot_ms", "time per output token (ms)"),
        ):
            mine, other = getattr(ours, name), getattr(theirs, name)
            if mine is not None or other is not None:
                rows.append((label, mine, other, mine / other if mine and other else None))
        return Table(columns=("cost", "this model", "baseline", "ratio"), rows=rows, title="Cost, batch 1")


CATALOGUE_TAGS = {"top1": "top1_agreement", "kl": "kl_divergence", "entities": "entity_accuracy"}
"""Name of a measure → its tag in the catalogue, where they differ."""
METRIC_TITLES = {
    "perplexity": "perplexity",
    "top1": "top-1 agreement",
    "kl": "KL divergence of the next token",
    "entities": "entity accuracy",
}
_WORST_LAYERS = 5


def _layers_table(layers: list[dict[str, Any]]) -> Table:
    measured = layers[0].get("output_relative_error") is not None
    by = "output_relative_error" if measured else "relative_rms_error"
    seen = ("weight_largest", "inputs_largest", "clipped_share", "outlier_channels")
    columns = ("module", by, *seen, "bytes_before", "bytes_after")
    worst = sorted(layers, key=lambda layer: -float(layer[by]))[:_WORST_LAYERS]
    rows = [tuple(layer.get(column) for column in columns) for layer in worst]
    return Table(
        columns=columns, rows=rows, title=f"Layers that lost most ({len(rows)} of {len(layers)}; all are in .layers)"
    )
