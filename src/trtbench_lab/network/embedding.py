"""Token embedding: whole, split by vocabulary, or split by hidden size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..plugins.lookup import LOOKUP
from .communicator import Communicator


class Embedding(nn.Module):
    """Rows of a table by id.

    Parameters
    ----------
    num_rows, width
        Extents of this rank's part.
    communicator
        The group to combine over, when the table is split.
    split_dim
        None (whole), 0 (this rank holds the rows from `first_row` on) or 1 (this rank holds some columns).
    first_row
        First vocabulary id of this rank's rows.
    use_plugin
        Read a table that is split by vocabulary with the lookup plugin.
    """

    def __init__(
        self,
        num_rows: int,
        width: int,
        *,
        communicator: Communicator | None = None,
        split_dim: int | None = None,
        first_row: int = 0,
        use_plugin: bool = False,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_rows, width), requires_grad=False)
        self.num_rows, self.first_row, self.split_dim, self.communicator = num_rows, first_row, split_dim, communicator
        self.use_plugin = use_plugin

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        if self.split_dim is None or self.communicator is None:
            return F.embedding(ids, self.weight)
        if self.split_dim == 1:
            return self.communicator.all_gather(F.embedding(ids, self.weight), -1)
        if self.use_plugin:
            return self.communicator.all_reduce(LOOKUP(ids, self.weight, first_row=self.first_row))
        local = ids - self.first_row
        mine = (local >= 0) & (local < self.num_rows)
        rows = F.embedding(torch.where(mine, local, 0), self.weight)
        return self.communicator.all_reduce(rows * mine[..., None])  # the ranks that lack a row add zeros
