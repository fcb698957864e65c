"""The errors of a cell on several ranks: one for each distinct failure, with the ranks it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import WorldError
from .rank import Failure

_RED, _PLAIN = "\x1b[31m", "\x1b[0m"


@dataclass(frozen=True)
class SharedFailure:
    """One error, and every rank that raised it."""

    ranks: tuple[int, ...]
    failure: Failure

    @property
    def heading(self) -> str:
        """``"ranks 0-2: ValueError: no such token"``."""
        message = self.failure.message.splitlines()[0] if self.failure.message else ""
        return f"{ranks_in_words(self.ranks)}: {self.failure.kind}{': ' if message else ''}{message}"


class RankError(WorldError):
    """A cell failed on some ranks.

    Attributes
    ----------
    failures
        Each distinct error once.
    results
        The `RankResults` of the cell: what the other ranks returned and all of them printed.
    """

    failures: tuple[SharedFailure, ...] = ()
    results: object = None

    def _render_traceback_(self) -> list[str]:
        """IPython shows this in place of a traceback through this project's own code."""
        lines: list[str] = []
        for shared in self.failures:
            lines += [f"{_RED}{ranks_in_words(shared.ranks)}{_PLAIN}", *shared.failure.traceback]
        return [*lines, *(f"{_RED}{text}{_PLAIN}" for text in str(self).splitlines())]


class DeadRankError(RankError):
    """A rank's process ended while a cell ran."""


class StuckRanksError(RankError):
    """A cell ran out of its time, or did not let itself be interrupted."""


def distinct_failures(failures: Sequence[tuple[int, Failure]]) -> tuple[SharedFailure, ...]:
    """Return each error once: the same class, text and lines on several ranks are one.

    Numbers in the text count as equal where the places are: ``rank 1 has 3 tokens`` on each rank is one error.
    """
    groups: dict[tuple[object, ...], list[tuple[int, Failure]]] = {}
    for rank, failure in failures:
        text = "".join("0" if letter.isdigit() else letter for letter in failure.message)
        groups.setdefault((failure.kind, text if failure.place else failure.message, failure.place), []).append(
            (rank, failure)
        )
    return tuple(SharedFailure(tuple(rank for rank, _ in group), group[0][1]) for group in groups.values())


def ranks_in_words(ranks: Sequence[int]) -> str:
    """Return ``"rank 3"``, ``"ranks 0-2, 5"``."""
    ordered = sorted(ranks)
    runs: list[list[int]] = []
    for rank in ordered:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    words = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"rank {words}" if len(ordered) == 1 else f"ranks {words}"
