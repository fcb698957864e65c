"""One rank without the others: a build tries its engine out, and compiles its kernels, before the others are there."""

from __future__ import annotations

import torch

from ..specs import Mapping


class RankAlone:
    """See `protocol.RankCommunicator`: shapes and kernels are right, values are this rank's share of them.

    Parameters
    ----------
    mapping, device
        The rank's place, and where it computes.
    """

    name = "none"

    def __init__(self, mapping: Mapping, device: torch.device) -> None:
        self.mapping, self.device = mapping, device

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        # The others' parts, in some form: a part of a split embedding alone may be zeros, which no norm can take.
        return x + self._something(x.shape[-1:], x)

    def all_gather(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        return torch.cat([x] * self.mapping.tp_size, dim)

    def reduce_add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return residual.add_(self.all_reduce(x))

    def send(self, x: torch.Tensor, to: int) -> None:
        """Nobody is there."""

    def receive(self, x: torch.Tensor, source: int) -> torch.Tensor:
        return x.copy_(self._something(x.shape[-1:], x).expand_as(x))

    def flush(self) -> None:
        """Nothing is under way."""

    def broadcast(self, x: torch.Tensor, root: int = 0) -> torch.Tensor:
        return x

    def close(self) -> None:
        """Nothing is held."""

    def _something(self, shape: torch.Size, like: torch.Tensor) -> torch.Tensor:
        return torch.linspace(-1, 1, shape[0], device=like.device).to(like.dtype)
