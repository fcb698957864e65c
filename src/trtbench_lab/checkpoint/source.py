"""What conversion reads from: any table of tensors that can be opened one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import IntakeError

if TYPE_CHECKING:
    import torch

IN_MEMORY = "(in memory)"


class TensorSource(Protocol):
    """The part of a model source that conversion needs; the sources of `intake` are of this kind.

    Attributes
    ----------
    directory
        Where it lies, for messages.
    config
        The source's configuration in Hugging Face's field names.
    """

    @property
    def directory(self) -> Path: ...

    @property
    def config(self) -> dict[str, Any]: ...

    def names(self) -> Sequence[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> torch.dtype: ...

    def tensor(self, name: str) -> torch.Tensor: ...

    def release(self, name: str) -> None: ...


class MemorySource:
    """Tensors that are in memory already.

    Parameters
    ----------
    config
        Configuration in Hugging Face's field names.
    tensors
        Name → tensor on the CPU.
    directory
        Name for messages.
    """

    def __init__(
        self, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], directory: Path | str = IN_MEMORY
    ):
        self.config = dict(config)
        self.directory = Path(directory)
        self._tensors = tensors

    def names(self) -> tuple[str, ...]:
        """Return the tensors' names."""
        return tuple(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the extents of tensor `name`."""
        return tuple(self.tensor(name).shape)

    def dtype(self, name: str) -> torch.dtype:
        """Return the element type of tensor `name`."""
        return self.tensor(name).dtype

    def tensor(self, name: str) -> torch.Tensor:
        """Return tensor `name`."""
        try:
            return self._tensors[name].detach()
        except KeyError:
            raise IntakeError(f"There is no tensor {name!r}.", where=str(self.directory)) from None

    def release(self, name: str) -> None:
        """Do nothing: the tensors belong to the caller."""
