"""What ranks say to each other: `Control` between programs, `RankCommunicator` between parts of one model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from ..specs import Mapping

if TYPE_CHECKING:
    import torch


class Control(Protocol):
    """Messages between the ranks' programs.

    Attributes
    ----------
    rank, size
        This process, and how many there are.
    """

    rank: int
    size: int

    def post(self, message: Any) -> None:
        """Send `message` (picklable) from rank 0 to every other rank, without waiting for them; any thread may."""

    def take(self) -> Any:
        """Wait, without keeping a core busy for long, for rank 0's next message and return it."""

    def share(self, value: Any) -> list[Any]:
        """Give `value` to all and return everybody's, by rank; every rank calls it."""

    def confirm(self) -> None:
        """On a rank other than 0: tell rank 0 that its last word was heard."""

    def confirmed(self, timeout_s: float) -> bool:
        """On rank 0: wait until every other rank has confirmed; False when one has not in time."""

    def abort(self, code: int = 1) -> NoReturn:
        """End every rank at once, those that wait in a collective too."""


class RankCommunicator(Protocol):
    """One rank of a model that is split over several; ranks call the same methods in the same order.

    Attributes
    ----------
    mapping
        Layout of the ranks, as this one sees it.
    device
        Where tensors must be.
    name
        What carries the data, for people: ``"MPI"``, ``"NCCL"``.
    """

    mapping: Mapping
    device: torch.device
    name: str

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of `x` over the ranks that share layers; `x` may be overwritten."""

    def all_gather(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """Return the `x` of the ranks that share layers, concatenated along `dim` in their order, contiguous."""

    def reduce_add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return ``residual`` + the sum of `x` over the ranks that share layers; both may be overwritten."""

    def send(self, x: torch.Tensor, to: int) -> None:
        """Send `x` to the rank `to`, which receives it; `x` must not change before `flush` or the next send."""

    def receive(self, x: torch.Tensor, source: int) -> torch.Tensor:
        """Fill `x`, contiguous, with what the rank `source` sends, and return it."""

    def flush(self) -> None:
        """Wait until what was sent may be overwritten."""

    def broadcast(self, x: torch.Tensor, root: int = 0) -> torch.Tensor:
        """Fill `x` of every rank with that of `root`."""

    def close(self) -> None:
        """Free what the communicator holds."""
