"""What more GPUs would bring: one model on 1 to 64 of them, tensor parallel within a host and stages or sums beyond."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...results.render import Table
from .collectives import HOST_GPUS

if TYPE_CHECKING:
    from .result import PlanResult

COUNTS = (1, 2, 4, 8, 16, 64)
MEASURED_GPUS = 4  # sums and decode steps were measured up to here, of H200 by NVLink
NOTE = (
    "The quicker of two ways beyond a host: stages there, or sums over all. Measured of 2 and 4 H200: steps took up to "
    "11 % longer than predicted (benchmarks/RESULTS.md); no more GPUs were measured."
)


@dataclass(frozen=True, kw_only=True)
class ScalingRow:
    """One number of GPUs.

    Attributes
    ----------
    tp_size, pp_size
        How the model is split over them.
    itl_ms, tokens_per_sec
        Predicted, of the first workload.
    memory_bytes, fits
        Of the fullest rank, and whether its GPU holds it.
    rests_on
        Where the cost of sums comes from.
    """

    tp_size: int
    pp_size: int
    itl_ms: float
    tokens_per_sec: float
    memory_bytes: int
    fits: bool
    rests_on: str

    @property
    def gpus(self) -> int:
        """Number of GPUs."""
        return self.tp_size * self.pp_size


def scaled(planned: Callable[[int, int], PlanResult | None]) -> list[ScalingRow]:
    """Return a row for each of `COUNTS` over which the model can be divided.

    Parameters
    ----------
    planned
        Makes the plan of (tp, pp); None where the model cannot be divided or does not run so.
    """
    rows = []
    for count in COUNTS:
        found = [plan for tp, pp in _layouts(count) if (plan := planned(tp, pp)) is not None]
        if found:
            best = min(found, key=lambda plan: (not plan.fits, plan.prediction.itl_ms))
            rows.append(
                ScalingRow(
                    tp_size=best.tp_size,
                    pp_size=best.pp_size,
                    itl_ms=best.prediction.itl_ms,
                    tokens_per_sec=best.prediction.tokens_per_sec,
                    memory_bytes=best.memory_bytes,
                    fits=best.fits,
                    rests_on=_basis(count),
                )
            )
    return rows


def scaling_table(rows: list[ScalingRow]) -> Table:
    """Show the rows beside the one with the fewest GPUs that hold the model."""
    first = next((row for row in rows if row.fits), None)
    columns = ("GPUs", "tp × pp", "ITL (ms)", "of the first that fits", "tokens/s", "GiB a rank", "sums between ranks")
    cells = [
        (
            row.gpus, f"{row.tp_size} × {row.pp_size}", row.itl_ms,
            f"{row.itl_ms / first.itl_ms:.2f} ×" if first and row.fits else "does not fit",
            row.tokens_per_sec, row.memory_bytes / 2**30, row.rests_on,
        )
        for row in rows
    ]  # fmt: skip
    return Table(columns, cells, title="Scaling, predicted", note=NOTE)


def _layouts(count: int) -> Iterator[tuple[int, int]]:
    inside = min(count, HOST_GPUS)
    yield inside, count // inside
    if count > inside:
        yield count, 1


def _basis(count: int) -> str:
    if count == 1:
        return "none"
    if count <= MEASURED_GPUS:
        return "measured"
    return "carried on from 4" if count <= HOST_GPUS else "a network of 400 Gb/s a GPU and 20 µs, assumed"
