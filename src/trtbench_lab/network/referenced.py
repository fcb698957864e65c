"""An exported network whose weights stay where they are: an ONNX file of kilobytes, and an address for each content.

Readers that take weights from memory (TensorRT's parser does) then never see a second copy of the checkpoint, and the
2 GiB that a protobuf may hold are no limit. Contents that need another type or form than the checkpoint has are written
once into a scratch file, which is mapped as well: what the process itself holds stays one tensor at a time.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import onnx_ir as ir
import torch

from ..errors import BuildError
from ..storage import storage_error
from .export import ExportedNetwork
from .initializers import INLINE_BYTES, DataFile, Initializer, Weights

LOCATION = "weights-by-reference"
"""What the ONNX file names as the place of its weights; there is no such file."""


@dataclass(frozen=True)
class Content:
    """The bytes of one initializer, which stay valid as long as its `ReferencedNetwork` is open.

    Attributes
    ----------
    address, nbytes
        Where they are.
    mapped_from
        ``"checkpoint"``, or ``"scratch"`` for converted ones.
    tensor
        Keeps the memory alive.
    """

    address: int
    nbytes: int
    mapped_from: str
    tensor: torch.Tensor = field(repr=False)


class ReferencedNetwork:
    """A network and the addresses of its weights.

    Parameters
    ----------
    network
        The network; its initializers become references.
    weights
        The rank's tensors, mapped.
    scratch
        File for converted contents; removed on exit.
    each
        Called before each content; may raise to stop.

    Attributes
    ----------
    contents
        Initializer → its bytes; small ones stand in the model itself.
    """

    def __init__(
        self, network: ExportedNetwork, weights: Weights, scratch: Path, *, each: Callable[[], None] | None = None
    ):
        self.network, self.scratch = network, scratch
        self.contents: dict[str, Content] = {}
        self._map: mmap.mmap | None = None
        self._lay_out(_Watched(weights), each)

    def __enter__(self) -> ReferencedNetwork:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def model_bytes(self) -> bytes:
        """Return the ONNX model without its large weights."""
        return ir.serde.serialize_model(self.network.model).SerializeToString()

    def items(self) -> Iterator[tuple[str, Content]]:
        """Give each initializer that the model refers to, in the model's order."""
        yield from self.contents.items()

    def bytes_from(self, place: str) -> int:
        """Return how many bytes lie in ``"checkpoint"`` or ``"scratch"``."""
        return sum(content.nbytes for content in self.contents.values() if content.mapped_from == place)

    def close(self) -> None:
        """Let go of every content and remove the scratch file; addresses are not valid any longer."""
        self.contents.clear()
        self._map = None  # unmapped with its last tensor
        self.scratch.unlink(missing_ok=True)

    def _lay_out(self, weights: _Watched, each: Callable[[], None] | None) -> None:
        converted: dict[str, ir.ExternalTensor] = {}
        graph = self.network.model.graph
        with DataFile(self.scratch) as data:
            for name, value in graph.initializers.items():
                if each is not None:
                    each()
                recipe = self.network.initializers[name]
                weights.given.clear()
                content = recipe.read(weights).contiguous()
                if content.nbytes != recipe.nbytes:
                    raise BuildError(
                        f"The initializer takes {recipe.nbytes} bytes but {content.nbytes} were made for it.",
                        where=name,
                        remedy="This is a fault of the export: please report it.",
                    )
                reference = ir.ExternalTensor(
                    LOCATION, 0, recipe.nbytes, recipe.dtype, shape=ir.Shape(recipe.shape), name=name
                )
                if recipe.nbytes > INLINE_BYTES and weights.holds(content):
                    self.contents[name] = Content(content.data_ptr(), recipe.nbytes, "checkpoint", content)
                    value.const_value = reference
                    continue
                made = Initializer(recipe.dtype, recipe.shape, lambda _, content=content: content)  # type: ignore[misc]
                stored = data.append(name, made, weights)
                value.const_value = stored
                if isinstance(stored, ir.ExternalTensor):
                    converted[name] = stored
                    value.const_value = reference
        self._map_scratch(converted)
        self.contents = {name: self.contents[name] for name in graph.initializers if name in self.contents}

    def _map_scratch(self, converted: dict[str, ir.ExternalTensor]) -> None:
        if not converted:
            return
        try:
            with open(self.scratch, "r+b") as handle:
                self._map = mmap.mmap(handle.fileno(), 0)
        except OSError as error:
            raise storage_error(error, self.scratch, "map the converted weights") from error
        for name, stored in converted.items():
            offset, length = int(stored.offset or 0), int(stored.length or 0)
            tensor = torch.frombuffer(self._map, dtype=torch.uint8, offset=offset, count=length)
            self.contents[name] = Content(tensor.data_ptr(), length, "scratch", tensor)


class _Watched(dict[str, torch.Tensor]):
    """Weights that remember what was taken out since the last `given.clear()`."""

    def __init__(self, weights: Weights):
        super().__init__()
        self._weights = weights
        self.given: list[torch.Tensor] = []

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self._weights[name]
        self.given.append(tensor)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def holds(self, content: torch.Tensor) -> bool:
        """Whether `content` lies in what was taken out, unchanged: then it is the checkpoint's own memory."""
        start, end = content.data_ptr(), content.data_ptr() + content.nbytes
        return any(one.data_ptr() <= start and end <= one.data_ptr() + one.nbytes for one in self.given)
