"""What a scored summarisation leaves behind, and the lines in which TensorRT-LLM's users know it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..errors import EvaluationError
from ..results import Result, Table
from .gate import FAILED, PASSED, GateOutcome
from .rouge import RougeScores


@dataclass(frozen=True, kw_only=True)
class ArticleOutcome:
    """One article's texts.

    Attributes
    ----------
    id, reference, entities
        Of the record.
    prompt_tokens
        Length of the prompt after cutting.
    engine_texts, hf_texts
        Summaries, one a beam, best first; empty where that side did not run.
    """

    id: str
    prompt_tokens: int
    reference: str
    entities: list[str]
    engine_texts: list[str]
    hf_texts: list[str]


@dataclass(frozen=True, kw_only=True)
class SideScore:
    """One side's scores and times.

    Attributes
    ----------
    backend
        Who summarised.
    rouge
        ROUGE × 100, one set a beam.
    entity_accuracy
        Per beam, in per cent; None where the articles name no entities.
    batch_latency_ms
        For each batch, from the call of generate to its return; tokenizing and decoding text are outside.
    output_tokens
        New tokens of all articles and beams, end tokens and padding excluded.
    """

    backend: str
    rouge: list[RougeScores]
    entity_accuracy: list[float | None]
    batch_latency_ms: list[float]
    output_tokens: int

    @property
    def total_latency_s(self) -> float:
        """Sum over the batches."""
        return sum(self.batch_latency_ms) / 1e3

    @property
    def tokens_per_sec(self) -> float:
        """`output_tokens` over `total_latency_s`."""
        return self.output_tokens / self.total_latency_s


@dataclass(frozen=True, kw_only=True)
class SummarizeResult(Result):
    """Scores of an engine, of Hugging Face, or of both; `backend` is the engine's where it ran.

    Attributes
    ----------
    engine, hf
        Each side's scores; None where it did not run.
    articles
        Each article's texts.
    threshold
        The rouge1 × 100 of the first beam that the engine must exceed.
    gates
        Limits on what the engine may lose against Hugging Face, each with its outcome.
    """

    kind: ClassVar[str] = "summarize"

    engine: SideScore | None
    hf: SideScore | None
    articles: list[ArticleOutcome]
    threshold: float = field(default=14.0)
    gates: list[GateOutcome] = field(default_factory=list)

    @property
    def passed(self) -> bool | None:
        """Whether the engine's rouge1 exceeds the threshold; None where the engine or rouge1 is missing."""
        rouge1 = self._engine_rouge1
        return None if rouge1 is None else rouge1 > self.threshold

    @property
    def verdict(self) -> str:
        """The check of accuracy as a sentence."""
        rouge1 = self._engine_rouge1
        if rouge1 is None:
            return "The accuracy of the engine was not checked: it has no rouge1 here."
        if rouge1 > self.threshold:
            return f"PASSED: the engine's rouge1 of {rouge1:.2f} is above the threshold of {self.threshold:g}."
        return f"FAILED: the engine's rouge1 of {rouge1:.2f} is not above the threshold of {self.threshold:g}."

    @property
    def exit_code(self) -> int:
        """1 unless every limit of `gates` is shown to be kept; 0 without limits."""
        return 0 if all(gate.outcome == PASSED for gate in self.gates) else 1

    @property
    def _engine_rouge1(self) -> float | None:
        if self.engine is None or "rouge1" not in self.engine.rouge[0].intervals:
            return None
        return self.engine.rouge[0].score("rouge1")

    def check_accuracy(self) -> None:
        """Raise `EvaluationError` unless the engine's rouge1 is above the threshold."""
        if not self.passed:
            raise EvaluationError(
                self.verdict,
                where="check_accuracy",
                remedy="Compare the engine with Hugging Face (%trt_compare) to see where they part; a model that was "
                "not trained to summarise scores low on both sides."
                if self.passed is False
                else "Score the engine with rouge1.",
            )

    @property
    def sides(self) -> list[tuple[str, str, SideScore]]:
        """(prefix of its metrics, name, scores) of each side that ran."""
        found = []
        if self.engine is not None:
            found.append(("engine", f"{self.engine.backend} engine", self.engine))
        if self.hf is not None:
            found.append(("hf", "Hugging Face", self.hf))
        return found

    @property
    def metrics(self) -> dict[str, int | float | None]:
        values: dict[str, int | float | None] = {"articles": len(self.articles)}
        for prefix, _, side in self.sides:
            for rouge_type, interval in side.rouge[0].intervals.items():
                values[f"{prefix}_{rouge_type}"] = interval.score
                values[f"{prefix}_{rouge_type}_low"] = interval.low
                values[f"{prefix}_{rouge_type}_high"] = interval.high
            values[f"{prefix}_entity_accuracy"] = side.entity_accuracy[0]
            values[f"{prefix}_total_latency_s"] = side.total_latency_s
            values[f"{prefix}_output_tokens"] = side.output_tokens
            values[f"{prefix}_tokens_per_sec"] = side.tokens_per_sec
        if self.engine is not None and self.hf is not None:
            values["speedup"] = self.engine.tokens_per_sec / self.hf.tokens_per_sec
        return values

    def lines(self) -> list[str]:
        """The figures as TensorRT-LLM's summarize.py prints them, under the name of the backend that made them."""
        lines = []
        for _, name, side in self.sides:
            lines += [
                f"{name} (total latency: {side.total_latency_s} sec)",
                f"{name} (total output tokens: {side.output_tokens})",
                f"{name} (tokens per second: {side.tokens_per_sec})",
            ]
            for beam, rouge in enumerate(side.rouge):
                lines.append(f"{name} beam {beam} result")
                lines += [f"  {rouge_type}: {rouge.score(rouge_type)}" for rouge_type in rouge.intervals]
        return lines

    def tables(self) -> list[Table]:
        """Scores of each side and beam, then times."""
        scores: list[tuple[str | float | int | None, ...]] = []
        times = []
        for _, name, side in self.sides:
            times.append((name, side.total_latency_s, side.output_tokens, side.tokens_per_sec))
            for beam, rouge in enumerate(side.rouge):
                for rouge_type, i in rouge.intervals.items():
                    scores.append((name, beam, rouge_type, i.score, i.low, i.high, i.mean, i.n))
                scores.append(
                    (
                        name,
                        beam,
                        "entity accuracy (%)",
                        side.entity_accuracy[beam],
                        None,
                        None,
                        None,
                        len(self.articles),
                    )
                )
        interval = next(iter(self.sides[0][2].rouge[0].intervals.values()))
        note = (
            f"ROUGE × 100: F-measure of rouge-score, no stemmer; the score is the median and the interval the central "
            f"{100 * interval.confidence:.0f} % of {interval.resamples:,} bootstrap means (seed {interval.seed})."
            if interval.resamples
            else "ROUGE × 100: mean F-measure of rouge-score, no stemmer."
        )
        columns = ("side", "beam", "score", "value", "low", "high", "mean", "n")
        limits = []
        if self.gates:
            failed = any(gate.outcome == FAILED for gate in self.gates)
            word = "PASSED" if not self.exit_code else "FAILED" if failed else "NOT SHOWN"
            limits.append(Table(columns=("verdict",), rows=[(gate.sentence,) for gate in self.gates], title=word))
        return [
            *limits,
            Table(columns=columns, rows=scores, note=f"{note}\n{self.verdict}"),
            Table(columns=("side", "total latency (s)", "output tokens", "tokens per second"), rows=times),
        ]

    def __repr__(self) -> str:
        return "\n".join([super().__repr__(), "", *self.lines()])
