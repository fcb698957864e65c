"""What every source of weights offers, whatever its files look like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ..checkpoint.location import TensorLocation

if TYPE_CHECKING:
    import torch


@runtime_checkable
class ModelSource(Protocol):
    """A model's configuration and tensors, read when asked for.

    A source never holds the model in memory: `names`, `shape`, `dtype` and `location` read headers only, and `tensor`
    gives one tensor that the caller drops (and may `release`) before it asks for the next.

    Attributes
    ----------
    directory
        Where the source lies; named in errors.
    config
        The source's own configuration, in Hugging Face's field names.
    """

    @property
    def directory(self) -> Path: ...

    @property
    def config(self) -> dict[str, Any]: ...

    def names(self) -> Sequence[str]:
        """Return the tensors' names in an order that reads the files from front to back."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the extents of tensor `name`; raises `IntakeError` when there is no such tensor."""
        ...

    def dtype(self, name: str) -> torch.dtype:
        """Return the element type of tensor `name`."""
        ...

    def tensor(self, name: str) -> torch.Tensor:
        """Return tensor `name` on the CPU, memory-mapped where the file allows it."""
        ...

    def location(self, name: str) -> TensorLocation | None:
        """Return the byte range of tensor `name`, or None where it is not one plain range of a file."""
        ...

    def release(self, name: str) -> None:
        """Say that tensor `name` is no longer needed, so that its memory may be given back."""
        ...

    def digest(self) -> str:
        """Return a digest of configuration and weights that changes whenever either does (reads all bytes once)."""
        ...
