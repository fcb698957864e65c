"""Weights of an exported network: where each initializer's content comes from, and how it gets into a file.

An exported network holds names and shapes only. Contents are read from the checkpoint tensor by tensor and go straight
to the external data file, so that no more than one tensor, and its converted copy, is in memory at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO

import onnx_ir as ir
import torch

from ..errors import BuildError, CheckpointError
from ..storage import storage_error

Weights = Mapping[str, torch.Tensor]
PAGE_BYTES = 4096
"""Alignment of tensors in a data file: readers map pages."""
INLINE_BYTES = 1024
"""Tensors up to this size stand in the ONNX file itself, where readers can fold them."""


@dataclass(frozen=True)
class Initializer:
    """What an initializer holds.

    Attributes
    ----------
    dtype, shape
        Type and extents in ONNX.
    read
        Makes the content from a checkpoint's tensors: a tensor whose bytes, row by row, are the initializer's.
    """

    dtype: ir.DataType
    shape: tuple[int, ...]
    read: Callable[[Weights], torch.Tensor]

    @property
    def nbytes(self) -> int:
        return -(-prod(self.shape) * self.dtype.bitwidth // 8)


def from_checkpoint(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Initializer:
    """Return the checkpoint's tensor `name`, converted to `dtype`."""
    return Initializer(onnx_dtype(dtype), shape, lambda weights: tensor_of(weights, name, shape).to(dtype))


def constant(tensor: torch.Tensor) -> Initializer:
    """Return an initializer that no checkpoint holds."""
    return Initializer(onnx_dtype(tensor.dtype), tuple(tensor.shape), lambda weights: tensor)


def tensor_of(weights: Weights, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return ``weights[name]``, checked.

    Raises
    ------
    CheckpointError
        When it is missing or has another shape.
    """
    try:
        tensor = weights[name]
    except KeyError as error:
        raise CheckpointError(
            f"The checkpoint lacks the tensor {name!r}.", where=name, remedy="Convert the model again."
        ) from error
    if tuple(tensor.shape) != shape:
        raise CheckpointError(
            f"The tensor has shape {tuple(tensor.shape)}; its configuration asks for {shape}.",
            where=name,
            remedy="config.json and the weights do not belong together: convert the model again.",
        )
    return tensor


class DataFile:
    """An external data file that is written front to back.

    Parameters
    ----------
    path
        The file; the ONNX file that refers to it must lie in the same folder.
    alignment
        Every tensor starts at a multiple of it.
    """

    def __init__(self, path: Path, *, alignment: int = PAGE_BYTES):
        self.path, self.alignment = path, alignment
        self._end = 0
        self._file: IO[bytes] | None = None

    def __enter__(self) -> DataFile:
        try:
            self._file = open(self.path, "wb")
        except OSError as error:
            raise storage_error(error, self.path, "create the weights file") from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, name: str, initializer: Initializer, weights: Weights) -> ir.ExternalTensor | ir.Tensor:
        """Write one initializer and return the tensor that refers to it.

        Raises
        ------
        StorageError
            When the disk is full or fails.
        """
        content = initializer.read(weights).contiguous()
        raw = content.view(torch.uint8) if content.ndim else content.reshape(1).view(torch.uint8)
        if raw.nbytes != initializer.nbytes:
            raise BuildError(
                f"The initializer takes {initializer.nbytes} bytes but {raw.nbytes} were made for it.",
                where=name,
                remedy="This is a fault of the export: please report it.",
            )
        data = memoryview(raw.numpy()).cast("B")
        if raw.nbytes <= INLINE_BYTES:
            return ir.serde.deserialize_tensor(_inline_proto(name, initializer, bytes(data)))
        offset = -(-self._end // self.alignment) * self.alignment
        assert self._file is not None, "used outside of its with block"  # noqa: S101
        try:
            self._file.seek(offset)
            self._file.write(data)
        except OSError as error:
            raise storage_error(error, self.path, "write the weights file") from error
        self._end = offset + raw.nbytes
        return ir.ExternalTensor(
            self.path.name,
            offset,
            raw.nbytes,
            initializer.dtype,
            shape=ir.Shape(initializer.shape),
            name=name,
            base_dir=os.fspath(self.path.parent),
        )


class Released(Mapping[str, torch.Tensor]):
    """A view of weights that gives the memory pages of what was read back, when told to.

    Mapped pages count as the process's memory until then: a build would seem to hold the whole checkpoint.
    """

    def __init__(self, weights: Weights):
        self._weights = weights
        self._read: list[str] = []

    def __getitem__(self, name: str) -> torch.Tensor:
        self._read.append(name)
        return self._weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def release(self) -> None:
        """Give back the pages of every tensor read since the last call."""
        give_back = getattr(self._weights, "release", None)
        for name in self._read:
            if give_back is not None:
                give_back(name)
        self._read.clear()


def onnx_dtype(dtype: torch.dtype) -> ir.DataType:
    """Return ONNX's name of a torch type."""
    return _ONNX_DTYPES[dtype]


_ONNX_DTYPES = {
    torch.float32: ir.DataType.FLOAT,
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
    torch.int8: ir.DataType.INT8,
    torch.uint8: ir.DataType.UINT8,
    torch.int32: ir.DataType.INT32,
    torch.int64: ir.DataType.INT64,
    torch.float8_e4m3fn: ir.DataType.FLOAT8E4M3FN,
}


def _inline_proto(name: str, initializer: Initializer, data: bytes):  # type: ignore[no-untyped-def]
    import onnx

    return onnx.TensorProto(name=name, data_type=initializer.dtype.value, dims=list(initializer.shape), raw_data=data)
