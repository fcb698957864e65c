"""Serialized plans on disk, handed to TensorRT without a second copy: mapped, or streamed where a file cannot be."""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ...errors import EngineError
from ...storage import storage_error


@contextmanager
def mapped(path: Path) -> Iterator[memoryview]:
    """Give the file's bytes as they lie in the page cache; they are let go afterwards.

    TensorRT copies the weights to the device and keeps nothing of the buffer once the engine stands.
    """
    try:
        with open(path, "rb") as handle:
            pages = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:  # an empty file
        raise EngineError("The plan is empty.", where=str(path), remedy="Build the engine again.") from error
    with suppress(AttributeError, OSError):  # a hint
        pages.madvise(mmap.MADV_SEQUENTIAL)
    view = memoryview(pages)
    try:
        yield view
    finally:
        with suppress(BufferError):  # an engine that failed half-way may still hold the view
            view.release()
            pages.close()


class PlanSource:
    """A plan read piece by piece.

    Parameters
    ----------
    path
        The file.
    """

    def __init__(self, path: Path):
        try:
            self._file: io.FileIO | None = io.FileIO(path, "rb")
        except OSError as error:
            raise storage_error(error, path, "read the plan") from error

    def read(self, num_bytes: int) -> bytes:
        """Return the next bytes; fewer only at the end of the file."""
        parts = []
        while num_bytes and self._file is not None and (part := self._file.read(num_bytes)):
            parts.append(part)
            num_bytes -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def seek(self, offset: int, whence: int) -> bool:
        """Move to `offset` from `whence` (`os.SEEK_SET`, …); False where there is no such place."""
        if self._file is None:
            return False
        try:
            self._file.seek(offset, whence)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def stream_reader(trt: Any, source: PlanSource) -> Any:
    """Return an `IStreamReaderV2` over `source`: weights reach the device a piece at a time."""
    whence = {
        trt.SeekPosition.SET: os.SEEK_SET,
        trt.SeekPosition.CUR: os.SEEK_CUR,
        trt.SeekPosition.END: os.SEEK_END,
    }

    class Reader(trt.IStreamReaderV2):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IStreamReaderV2.__init__(self)

        def read(self, num_bytes: int, stream: int) -> bytes:
            return source.read(num_bytes)

        def seek(self, offset: int, where: Any) -> bool:
            return source.seek(offset, whence[where])

    try:
        return Reader()
    except RuntimeError as error:  # the bindings open libcuda here
        raise EngineError(
            f"A plan cannot be streamed: {error}",
            where="tensorrt backend",
            remedy="Look at nvidia-smi: TensorRT needs the library of an NVIDIA driver, libcuda.so.",
        ) from error


def deserialized(trt: Any, runtime: Any, path: Path, *, reader: str = "map") -> Any:
    """Return the engine of a plan, None where TensorRT refuses it.

    Parameters
    ----------
    trt, runtime
        The bindings and a `Runtime`.
    path
        The plan.
    reader
        ``"map"``, or ``"stream"`` for file systems that cannot map; a failing map falls back to it.
    """
    if reader == "map":
        try:
            with mapped(path) as plan:
                return runtime.deserialize_cuda_engine(plan)
        except OSError:
            pass  # some network and overlay file systems do not map
    source = PlanSource(path)
    try:
        return runtime.deserialize_cuda_engine(stream_reader(trt, source))
    finally:
        source.close()
