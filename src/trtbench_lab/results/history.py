"""The list of stored runs that a person browses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from .base import Number, Result
from .catalogue import metric_of
from .comparison import Comparison
from .render import Table, format_value, html_document, plain_document

if TYPE_CHECKING:
    from .database import ResultsDatabase

# What a row of the list shows, in this order, as far as the run has it. Four fit on a line.
HEADLINES = (
    "rouge1",
    "speedup",
    "token_agreement",
    "perplexity",
    "latency_ms_mean",
    "latency_ms",
    "ttft_ms_p50",
    "ttft_ms",
    "tokens_per_sec",
    "itl_prediction_error",
    "share_of_read_bandwidth",
)
_SHOWN_NUMBERS = 4


@dataclass(frozen=True, kw_only=True)
class HistoryRow:
    """One stored run without its raw samples."""

    id: str
    kind: str
    created_at: str
    backend: str
    model: str | None
    name: str | None
    metrics: dict[str, Number | None]
    tags: tuple[str, ...] = ()

    def headline(self) -> str:
        """Return the few numbers that tell this run from others, with units."""
        parts = []
        for wanted in HEADLINES:
            for name, value in self.metrics.items():
                if value is not None and name.rsplit(".", 1)[-1] in (wanted, f"engine_{wanted}"):
                    metric = metric_of(name)
                    unit = f" {metric.unit}" if metric and metric.unit else ""
                    parts.append(f"{metric.title if metric else name} {format_value(value)}{unit}")
                    break
        if not parts:
            parts = [f"{name} {format_value(value)}" for name, value in self.metrics.items() if value is not None]
        return ", ".join(parts[:_SHOWN_NUMBERS])


class HistoryView(Sequence[HistoryRow]):
    """Stored runs, newest first: a sequence of rows that prints as a table and loads or compares its runs.

    ``view[0]`` is a row, ``view.load(0)`` the whole result, ``view.compare(0, 2)`` a comparison.
    """

    def __init__(self, rows: Sequence[HistoryRow], database: ResultsDatabase, total: int):
        self._rows = list(rows)
        self._database = database
        self.total = total

    @overload
    def __getitem__(self, index: int) -> HistoryRow: ...
    @overload
    def __getitem__(self, index: slice) -> HistoryView: ...
    def __getitem__(self, index: int | slice) -> HistoryRow | HistoryView:
        if isinstance(index, slice):
            return HistoryView(self._rows[index], self._database, self.total)
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[HistoryRow]:
        return iter(self._rows)

    @property
    def ids(self) -> list[str]:
        """Ids of the shown runs, newest first."""
        return [row.id for row in self._rows]

    def load(self, index: int) -> Result:
        """Return the whole result of a row, raw samples included."""
        return self._database.get(self._rows[index].id)

    def results(self) -> list[Result]:
        """Return the whole results of all shown rows."""
        return [self._database.get(row.id) for row in self._rows]

    def compare(self, *indexes: int, metrics: Sequence[str] | None = None) -> Comparison:
        """Set rows side by side, the first one named as reference; all rows when none is named."""
        chosen = indexes or range(len(self._rows))
        return self._database.compare([self._rows[i].id for i in chosen], metrics)

    def tables(self) -> list[Table]:
        """One table: a line a run."""
        tagged = any(row.tags for row in self._rows)  # most people's runs have none: no empty column for them
        own = ("tags",) if tagged else ()
        columns = ("#", "id", "when (UTC)", "what", "model", "backend", "name", *own, "numbers")
        rows = [
            (
                i,
                row.id,
                row.created_at[:19].replace("T", " "),
                row.kind,
                row.model or "",
                row.backend,
                row.name or "",
                *((", ".join(row.tags),) if tagged else ()),
                row.headline(),
            )
            for i, row in enumerate(self._rows)
        ]
        return [Table(columns, rows)] if rows else []

    def __repr__(self) -> str:
        return plain_document("History of runs", self._byline, self.tables())

    def _repr_html_(self) -> str:
        return html_document("History of runs", self._byline, self.tables())

    @property
    def _byline(self) -> str:
        if not self.total:
            return f"No run is stored in {self._database.path} yet."
        if not self._rows:
            return f"None of the {self.total:,} stored runs matches."
        return f"{len(self._rows):,} of {self.total:,} stored runs · {self._database.path}"
