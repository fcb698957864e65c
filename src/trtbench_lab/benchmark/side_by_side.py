"""Views of benchmarks: an engine and Hugging Face side by side, and any benchmark as CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any

from ..results.render import Table, html_document, plain_document
from .result import BenchPoint, BenchResult


@dataclass(frozen=True, kw_only=True)
class BenchPair:
    """Two benchmarks of the same grid; both are kept as results of their own.

    Attributes
    ----------
    engine, huggingface
        The two sides, their points in the same order.
    """

    engine: BenchResult
    huggingface: BenchResult

    @property
    def pairs(self) -> list[tuple[BenchPoint, BenchPoint]]:
        """Engine and Hugging Face of each configuration."""
        return list(zip(self.engine.points, self.huggingface.points, strict=True))

    def tables(self) -> list[Table]:
        """A row a configuration: both sides and how many times faster the engine is."""
        columns = (
            "batch", "input", "output", f"{self.engine.backend} latency (ms)", "huggingface latency (ms)", "× faster",
            f"{self.engine.backend} TTFT (ms)", "huggingface TTFT (ms)", "× faster",
        )  # fmt: skip
        rows = []
        for ours, theirs in self.pairs:
            cells: list[Any] = [ours.batch_size, ours.input_length, ours.output_length]
            for tag in ("latency_ms", "ttft_ms"):
                mine, other = ours.distributions[tag], theirs.distributions[tag]
                both = mine is not None and other is not None
                cells += [
                    mine.p50 if mine else None,
                    other.p50 if other else None,
                    other.p50 / mine.p50 if both and mine and other else None,
                ]
            rows.append(tuple(cells))
        note = f"Medians; one process, one clock ({self.engine.clock}), the same random prompts."
        return [Table(columns, rows, title="Engine and Hugging Face", note=note)]

    def to_dict(self) -> dict[str, Any]:
        """Return both results as JSON-ready data."""
        return {"engine": self.engine.to_dict(), "huggingface": self.huggingface.to_dict()}

    @property
    def _title(self) -> str:
        return f"Benchmark: backend {self.engine.backend} beside huggingface"

    def __repr__(self) -> str:
        shown = plain_document(self._title, f"ids {self.engine.id}, {self.huggingface.id}", self.tables())
        return "\n\n".join([shown, repr(self.engine), repr(self.huggingface)])

    def _repr_html_(self) -> str:
        shown = html_document(self._title, f"ids {self.engine.id}, {self.huggingface.id}", self.tables())
        return shown + self.engine._repr_html_() + self.huggingface._repr_html_()


@dataclass(frozen=True, kw_only=True)
class BenchCsv:
    """A benchmark that prints as CSV, one line a configuration and side; everything else is in `result`."""

    result: BenchResult | BenchPair

    def to_dict(self) -> dict[str, Any]:
        """Return the benchmark as JSON-ready data."""
        return self.result.to_dict()

    def __repr__(self) -> str:
        pair = self.result
        sides = [pair.engine, pair.huggingface] if isinstance(pair, BenchPair) else [pair]
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(("backend", *sides[0].speed_table.columns))
        for side in sides:
            writer.writerows((side.backend, *row) for row in side.speed_table.rows)
        return buffer.getvalue().rstrip("\n")
