"""What a cell brought back from its ranks."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import SpecError
from .merge import MergedMetric, merge_metrics
from .rank import Outcome


@dataclass(frozen=True)
class RankResults:
    """Values and output by rank: ``results[2]`` is rank 2's value, ``results.values`` has all in order.

    Attributes
    ----------
    outcomes
        What the cell left in each rank that ended, in the order of the ranks.
    stdout, stderr
        What each rank printed, by rank.
    """

    outcomes: tuple[Outcome, ...]
    stdout: Mapping[int, str] = field(default_factory=dict)
    stderr: Mapping[int, str] = field(default_factory=dict)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that ended, in order."""
        return tuple(outcome.rank for outcome in self.outcomes)

    @property
    def values(self) -> list[Any]:
        """Each rank's value, in the order of `ranks`."""
        return [outcome.value for outcome in self.outcomes]

    @property
    def notes(self) -> list[str]:
        """What did not travel as it is, by rank."""
        return [f"rank {outcome.rank}: {outcome.note}" for outcome in self.outcomes if outcome.note]

    @property
    def seconds(self) -> float:
        """How long the slowest rank took."""
        return max((outcome.seconds for outcome in self.outcomes), default=0.0)

    @property
    def merged(self) -> dict[str, MergedMetric]:
        """Numbers of the ranks as one: of results with `metrics` and of dictionaries of numbers.

        The largest of times, the sum of memory, rank 0's of the rest; see `trtbench_lab.distributed.merge`. A verb that
        all ranks did together gave each the same result: that one's numbers stand as they are.
        """
        ids = {getattr(value, "id", None) for value in self.values}
        if len(ids) == 1 and None not in ids:
            shared = _metrics_of(self.values[0])
            return {name: MergedMetric(number, "rank 0", (number,) * len(self)) for name, number in shared.items()}
        return merge_metrics([_metrics_of(value) for value in self.values])

    def __getitem__(self, rank: int) -> Any:
        for outcome in self.outcomes:
            if outcome.rank == rank:
                return outcome.value
        raise SpecError(f"There is no result of rank {rank}.", where="RankResults", remedy=f"It has {self.ranks}.")

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.outcomes)

    def __repr__(self) -> str:
        lines = [f"rank {outcome.rank}: {_short(outcome)}" for outcome in self.outcomes]
        for name, metric in self.merged.items():
            lines.append(f"{name}: {_number(metric.value)} ({metric.rule})")
        return "\n".join(lines or ["no rank has ended"])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{outcome.rank}</td><td>{outcome.seconds:.3g}</td><td><code>{html.escape(_short(outcome))}</code></td></tr>"
            for outcome in self.outcomes
        )
        table = f"<table><tr><th>rank</th><th>s</th><th>value</th></tr>{rows}</table>"
        merged = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{_number(metric.value)}</td><td>{metric.rule}</td>"
            f"<td>{', '.join(_number(value) for value in metric.by_rank)}</td></tr>"
            for name, metric in self.merged.items()
        )
        if merged:
            table += f"<table><tr><th>metric</th><th>all ranks</th><th>rule</th><th>by rank</th></tr>{merged}</table>"
        return table


def _metrics_of(value: Any) -> dict[str, int | float | None]:
    metrics = getattr(value, "metrics", value)
    if not isinstance(metrics, Mapping):
        return {}
    return {
        str(name): number
        for name, number in metrics.items()
        if number is None or (isinstance(number, int | float) and not isinstance(number, bool))
    }


def _short(outcome: Outcome) -> str:
    if outcome.failure is not None:
        return f"{outcome.failure.kind}: {outcome.failure.message}"[:200]
    lines = repr(outcome.value).splitlines() or [""]
    return lines[0][:200] + (" …" if len(lines) > 1 or len(lines[0]) > 200 else "")


def _number(value: int | float | None) -> str:
    return "–" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
