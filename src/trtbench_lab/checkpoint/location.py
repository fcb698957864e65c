"""Where one tensor's bytes lie: the file, the byte range, and how to read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TensorLocation:
    """One tensor as a contiguous little-endian, row-major byte range of a file.

    Attributes
    ----------
    file
        The file that holds the bytes.
    offset, nbytes
        First byte, counted from the file's start, and number of bytes.
    dtype
        Element type in safetensors' spelling: ``"F32"``, ``"F16"``, ``"BF16"``, ``"I8"``, ``"U8"`` …
    shape
        Extents; ``()`` for a scalar.
    """

    file: Path
    offset: int
    nbytes: int
    dtype: str
    shape: tuple[int, ...]
