"""The shard plan: which rank gets which tensor, in which shape and bytes, before anything is written."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..families import Family
from .layout import Split, nbytes, rank_name, rank_slice, rank_tensors

if TYPE_CHECKING:
    from ..specs import ModelConfig

_CELL = (
    "padding:2px 12px 2px 0;border:0;border-bottom:1px solid rgba(127,127,127,.35);white-space:nowrap;text-align:left;"
)


@dataclass(frozen=True)
class ShardRow:
    """One tensor of one rank.

    Attributes
    ----------
    rank, pp_rank, tp_rank
        The rank and its place.
    tensor
        Name in the rank's file.
    layer
        Number of the layer in the whole model; None outside the layers.
    shape, whole_shape
        Extents in the file and before division.
    split
        ``"whole"``, ``"rows"``, ``"columns"`` or ``"heads"``.
    dtype
        Element type.
    bytes
        Size in the file.
    """

    rank: int
    pp_rank: int
    tp_rank: int
    tensor: str
    layer: int | None
    shape: tuple[int, ...]
    whole_shape: tuple[int, ...]
    split: str
    dtype: str
    bytes: int


@dataclass(frozen=True)
class ShardPlan:
    """All rows of a checkpoint; prints as a table, iterates over its rows.

    Attributes
    ----------
    architecture
        The model.
    tp_size, pp_size
        The ranks.
    rows
        Rank by rank, in the order of the network.
    """

    architecture: str
    tp_size: int
    pp_size: int
    rows: tuple[ShardRow, ...]

    def __iter__(self) -> Iterator[ShardRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.tp_size * self.pp_size

    def rank(self, rank: int) -> tuple[ShardRow, ...]:
        """Return the rows of one rank."""
        return tuple(row for row in self.rows if row.rank == rank)

    def total_bytes(self, rank: int | None = None) -> int:
        """Return the tensor bytes of one rank, or of all."""
        return sum(row.bytes for row in self.rows if rank is None or row.rank == rank)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-ready values."""
        rows = [{**asdict(row), "shape": list(row.shape), "whole_shape": list(row.whole_shape)} for row in self.rows]
        by_rank = [self.total_bytes(rank) for rank in range(self.world_size)]
        head = {"architecture": self.architecture, "tp_size": self.tp_size, "pp_size": self.pp_size}
        return {**head, "bytes_by_rank": by_rank, "rows": rows}

    def table(self) -> list[dict[str, Any]]:
        """Return the rows as flat dictionaries, for a data frame or a table widget."""
        return self.to_dict()["rows"]

    def __repr__(self) -> str:
        columns = ("rank", "stage", "tensor", "split", "shape", "of", "dtype", "bytes")
        cells = [columns, *(self._cells(row) for row in self._shown())]
        widths = [max(len(line[column]) for line in cells) for column in range(len(columns))]
        lines = [
            "  ".join(
                cell.rjust(width) if column == len(columns) - 1 else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in cells
        ]
        return "\n".join([self._headline(), *lines, self._footer()])

    def _repr_html_(self) -> str:
        columns = ("rank", "stage", "tensor", "split", "shape", "of", "dtype", "bytes")
        head = "".join(f'<th style="{_CELL}text-align:left">{name}</th>' for name in columns)
        body = "".join(
            "<tr>" + "".join(f'<td style="{_CELL}">{html.escape(cell)}</td>' for cell in self._cells(row)) + "</tr>"
            for row in self._shown()
        )
        return (
            f"<div><b>{html.escape(self._headline())}</b>"
            f'<div style="max-height:26em;overflow:auto"><table style="border-collapse:collapse">'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
            f"<div>{html.escape(self._footer())}</div></div>"
        )

    def _shown(self) -> list[ShardRow]:
        """Rows worth reading: one layer a stage stands for all of them, because layers are alike."""
        shown: list[ShardRow] = []
        first_layer: dict[int, int] = {}
        for row in self.rows:
            if row.layer is None or first_layer.setdefault(row.rank, row.layer) == row.layer:
                shown.append(row)
        return shown

    def _headline(self) -> str:
        return f"Shard plan: {self.architecture}, tp {self.tp_size} × pp {self.pp_size}, {self.total_bytes():,} bytes"

    def _footer(self) -> str:
        totals = ", ".join(f"rank {rank}: {self.total_bytes(rank):,} bytes" for rank in range(self.world_size))
        layers = {row.layer for row in self.rows if row.layer is not None}
        return f"{totals}. {len(layers)} layers; the first of each rank is shown, the others are alike."

    @staticmethod
    def _cells(row: ShardRow) -> tuple[str, ...]:
        def extents(shape: tuple[int, ...]) -> str:
            return " × ".join(str(extent) for extent in shape)

        whole = "" if row.split == Split.WHOLE else extents(row.whole_shape)
        place = (str(row.rank), str(row.pp_rank), row.tensor, row.split, extents(row.shape), whole)
        return (*place, row.dtype, f"{row.bytes:,}")


def shard_plan(config: ModelConfig, family: Family | None = None) -> ShardPlan:
    """Return which rank gets what; nothing is read or written.

    Parameters
    ----------
    config
        The model with its mapping and quantization.
    family
        Not needed: the layout is the same for all families.

    Raises
    ------
    CheckpointError
        When the model cannot be divided so.
    """
    rows = []
    for rank in range(config.mapping.world_size):
        mapping = config.mapping.with_rank(rank)
        for tensor in rank_tensors(config, mapping):
            shape = rank_slice(tensor, config, mapping).shape
            rows.append(
                ShardRow(
                    rank=rank, pp_rank=mapping.pp_rank, tp_rank=mapping.tp_rank,
                    tensor=rank_name(tensor, config, mapping), layer=tensor.layer, shape=shape,
                    whole_shape=tensor.shape, split=tensor.split.value, dtype=tensor.dtype,
                    bytes=nbytes(shape, tensor.dtype),
                )
            )  # fmt: skip
    return ShardPlan(config.architecture, config.mapping.tp_size, config.mapping.pp_size, tuple(rows))
