"""What tensor parallelism asks of the ranks: sums and concatenations, behind a protocol so that one rank needs none."""

from __future__ import annotations

from typing import Protocol

import torch


class Communicator(Protocol):
    """Collectives over one tensor-parallel group; every rank of it calls them in the same order."""

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of `x` over the group's ranks, the same on each of them."""

    def all_gather(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """Return the ranks' `x`, concatenated along `dim` in rank order."""


class SingleRank:
    """The group of one: every collective is the identity."""

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def all_gather(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        return x
