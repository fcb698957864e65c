"""What every source of weights offers, whatever its files look like."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ..checkpoint.location import TensorLocation
from ..checkpoint.source import TensorSource


@runtime_checkable
class ModelSource(TensorSource, Protocol):
    """A model's configuration and tensors, read when asked for.

    A source never holds the model in memory: `names` (in an order that reads the files from front to back), `shape`,
    `dtype` and `location` read headers only, and `tensor` gives one tensor on the CPU, memory-mapped where the file
    allows it, which the caller drops (and may `release`) before it asks for the next. A name that is none raises
    `IntakeError`.

    Attributes
    ----------
    directory
        Where the source lies; named in errors.
    config
        The source's own configuration, in Hugging Face's field names.
    """

    def location(self, name: str) -> TensorLocation | None:
        """Return the byte range of tensor `name`, or None where it is not one plain range of a file."""
        ...

    def digest(self) -> str:
        """Return a digest of configuration and weights that changes whenever either does (reads all bytes once)."""
        ...
