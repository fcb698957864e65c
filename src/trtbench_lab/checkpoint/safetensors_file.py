"""Safetensors files: a header reader that says precisely what is wrong, and memory-mapped tensors.

Layout: an 8-byte little-endian header length N, N bytes of JSON ``{name: {dtype, shape, data_offsets}}`` with offsets
counted from the header's end, then the tensors' bytes without gaps
(github.com/huggingface/safetensors, README "Format"). The reader is this project's own because a damaged download must
be reported by tensor and byte count, and because conversion and export need the byte ranges themselves.
"""

from __future__ import annotations

import json
import mmap
import platform
import struct
import sys
import threading
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import CheckpointError, TrtbenchError
from ..storage import storage_error
from .location import TensorLocation

if TYPE_CHECKING:
    import torch

# Bits an element; every spelling of the format as of safetensors 0.8.
DTYPE_BITS: dict[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip

# Spellings that torch has an element type for; the 4- and 6-bit ones are packed and stay raw bytes.
TORCH_DTYPES: dict[str, str] = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_AGAIN = "Fetch or write the file again; it is not usable as it is."


def dtype_name(dtype: torch.dtype) -> str:
    """Return safetensors' spelling of a torch element type, for example ``"BF16"``."""
    plain = str(dtype).removeprefix("torch.")
    for name, torch_name in TORCH_DTYPES.items():
        if torch_name == plain:
            return name
    raise CheckpointError(
        f"Element type {plain} cannot be stored in a safetensors file.", remedy=f"Use one of {', '.join(DTYPE_BITS)}."
    )


def torch_dtype_name(name: str) -> str:
    """Return the name of torch's element type for safetensors' spelling (torch itself is not loaded)."""
    return TORCH_DTYPES[name] if name in TORCH_DTYPES else str(torch_dtype(name)).removeprefix("torch.")


def torch_dtype(name: str) -> torch.dtype:
    """Return torch's element type for safetensors' spelling."""
    import torch

    found = getattr(torch, TORCH_DTYPES.get(name, ""), None)
    if found is None:
        raise CheckpointError(
            f"Element type {name} has no counterpart in torch {torch.__version__}.",
            remedy="Convert the file to a type that torch knows, for example BF16.",
        )
    return found


def read_header(path: Path | str, *, error: type[TrtbenchError] = CheckpointError) -> dict[str, TensorLocation]:
    """Read and check a file's header; reads no tensor bytes.

    Parameters
    ----------
    path
        The safetensors file.
    error
        The class to raise: `IntakeError` where the file is a source, `CheckpointError` where it is a checkpoint.

    Returns
    -------
    dict[str, TensorLocation]
        Tensor name → place, in the order of their bytes.

    Raises
    ------
    TrtbenchError
        Of class `error`: truncated, not safetensors, malformed JSON, unknown element type, byte counts that do not
        fit the shape, overlapping or missing bytes. `StorageError` when the file cannot be read.
    """
    return _read(Path(path), error)[0]


def read_metadata(path: Path | str, *, error: type[TrtbenchError] = CheckpointError) -> dict[str, str]:
    """Return the free ``__metadata__`` strings of a file's header (empty when there are none)."""
    return _read(Path(path), error)[1]


class SafetensorsFile:
    """One memory-mapped file; tensors share its pages and are read from the disk when touched.

    The mapping is private: writing into a tensor changes this process's copy of the page, never the file. Tensors keep
    the mapping alive, so they stay valid after `close`.
    """

    def __init__(self, path: Path | str, *, error: type[TrtbenchError] = CheckpointError):
        self.path = Path(path)
        self.locations = read_header(self.path, error=error)
        self._error = error
        self._map: mmap.mmap | None = None
        self._opening = threading.Lock()  # two mappings of one file would release each other's pages only

    def __enter__(self) -> SafetensorsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self.locations)

    def __len__(self) -> int:
        return len(self.locations)

    def __contains__(self, name: object) -> bool:
        return name in self.locations

    def location(self, name: str) -> TensorLocation:
        """Return the place of tensor `name`."""
        try:
            return self.locations[name]
        except KeyError:
            raise self._error(f"There is no tensor {name!r} in this file.", where=str(self.path)) from None

    def raw(self, name: str) -> memoryview:
        """Return the raw bytes of tensor `name` without copying."""
        place = self.location(name)
        return memoryview(self._mapping())[place.offset : place.offset + place.nbytes]

    def tensor(self, name: str) -> torch.Tensor:
        """Return tensor `name` without copying (copied only where its bytes are not aligned to its element size)."""
        import torch

        place = self.location(name)
        try:
            dtype = torch_dtype(place.dtype)
        except CheckpointError as unknown:
            raise self._error(unknown.what, where=f"{self.path}, tensor {name}", remedy=unknown.remedy) from None
        if place.nbytes == 0:
            return torch.empty(place.shape, dtype=dtype)
        if place.offset % dtype.itemsize:  # legal in the format, but vector loads want aligned addresses
            copied = bytearray(self.raw(name))
            return torch.frombuffer(copied, dtype=dtype).view(place.shape)
        count = prod(place.shape)
        return torch.frombuffer(self._mapping(), dtype=dtype, count=count, offset=place.offset).view(place.shape)

    def release(self, name: str) -> None:
        """Give the pages of tensor `name` back to the system; they are read again from the file when touched again.

        Mapped pages count as the process's resident memory until then. Changes made to the tensor in place are lost.
        """
        place = self.location(name)
        if self._map is None:
            return
        first = -(-place.offset // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (place.offset + place.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first:
            self._map.madvise(mmap.MADV_DONTNEED, first, last - first)

    def close(self) -> None:
        """Let go of the mapping; the system unmaps it once no tensor uses it."""
        self._map = None

    def _mapping(self) -> mmap.mmap:
        with self._opening:
            if self._map is None:
                try:
                    with open(self.path, "rb") as handle:
                        protection = mmap.PROT_READ | mmap.PROT_WRITE
                        self._map = mmap.mmap(handle.fileno(), 0, flags=_PRIVATE, prot=protection)
                except OSError as fault:
                    raise storage_error(fault, self.path, "map the file into memory") from fault
            return self._map


# A private writable mapping counts against the machine's memory unless MAP_NORESERVE says otherwise: without it Linux
# refuses to map a file larger than RAM + swap. Python's mmap module does not name the constant.
_NORESERVE = 0x4000 if sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64") else 0
_PRIVATE = mmap.MAP_PRIVATE | _NORESERVE


def _read(path: Path, error: type[TrtbenchError]) -> tuple[dict[str, TensorLocation], dict[str, str]]:
    where = str(path)
    try:
        with open(path, "rb") as handle:
            file_bytes = handle.seek(0, 2)
            handle.seek(0)
            prefix = handle.read(8)
            if len(prefix) < 8:
                raise error(
                    f"The file is truncated: it has {file_bytes} bytes, and the header length alone takes 8.",
                    where=where, remedy=_AGAIN,
                )  # fmt: skip
            (header_bytes,) = struct.unpack("<Q", prefix)
            if header_bytes > min(MAX_HEADER_BYTES, file_bytes - 8):
                _refuse_header(prefix + handle.read(56), header_bytes, file_bytes, where, error)
            raw = handle.read(header_bytes)
    except OSError as fault:
        raise storage_error(fault, path, "read the file") from fault
    header = _parse(raw, where, error)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise error("The header's __metadata__ is not a table of strings.", where=where, remedy=_AGAIN)
    places = [_entry(path, name, entry, 8 + header_bytes, error) for name, entry in header.items()]
    order = sorted(range(len(places)), key=lambda index: (places[index].offset, places[index].nbytes))
    names = list(header)
    located = {names[index]: places[index] for index in order}
    _check_cover(located, 8 + header_bytes, file_bytes, where, error)
    return located, metadata


def _refuse_header(
    start: bytes, header_bytes: int, file_bytes: int, where: str, error: type[TrtbenchError]
) -> NoReturn:
    """Name what the file is instead, where its first bytes tell."""
    if start.startswith(b"version https://git-lfs"):
        raise error(
            "The file is a Git LFS pointer, not the weights.",
            where=where, remedy="Run `git lfs pull` in the folder, or download the model with the `download` verb.",
        )  # fmt: skip
    if start.lstrip()[:1] == b"<":
        raise error("The file is a web page, not weights.", where=where, remedy="Download the file itself.")
    if start.startswith((b"PK\x03\x04", b"\x80\x02")):
        raise error(
            "The file is a PyTorch archive, not safetensors.",
            where=where, remedy="Give it its own name (pytorch_model.bin), or save it with safe_serialization=True.",
        )  # fmt: skip
    if start.startswith(b"GGUF"):
        raise error("The file is GGUF, not safetensors.", where=where, remedy="Use the model's safetensors files.")
    if header_bytes > MAX_HEADER_BYTES:
        raise error(
            f"The header length is {header_bytes:,} bytes, above the format's limit of {MAX_HEADER_BYTES:,}: "
            "the file is corrupt or not safetensors.",
            where=where, remedy=_AGAIN,
        )  # fmt: skip
    raise error(
        f"The file is truncated or corrupt: its header should have {header_bytes:,} bytes, and only "
        f"{file_bytes - 8:,} bytes follow.",
        where=where, remedy=_AGAIN,
    )  # fmt: skip


def _parse(raw: bytes, where: str, error: type[TrtbenchError]) -> dict[str, Any]:
    repeated: list[str] = []

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            repeated.extend(name for name in found if names.count(name) > 1)
        return found

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=table)
    except (ValueError, RecursionError) as fault:  # ValueError covers bad UTF-8, bad JSON and numbers of absurd length
        reason = str(fault)[:200]
        raise error(f"The header is not valid JSON ({reason}).", where=where, remedy=_AGAIN) from fault
    if not isinstance(header, dict):
        raise error("The header is not a JSON object.", where=where, remedy=_AGAIN)
    if repeated:
        raise error(f"The header names {repeated[0]!r} twice.", where=where, remedy=_AGAIN)
    return header


def _entry(path: Path, name: str, entry: Any, data_start: int, error: type[TrtbenchError]) -> TensorLocation:
    where = f"{path}, tensor {name}"
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise error("The header entry lacks dtype, shape or data_offsets.", where=where, remedy=_AGAIN)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        known = ", ".join(DTYPE_BITS)
        raise error(f"Unknown element type {dtype!r}.", where=where, remedy=f"Known: {known}.")
    if not _counts(shape):
        raise error(f"The shape {shape!r} is not a list of counts.", where=where, remedy=_AGAIN)
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise error(f"The data_offsets {offsets!r} are not [begin, end].", where=where, remedy=_AGAIN)
    bits = prod(shape) * DTYPE_BITS[dtype]
    nbytes = offsets[1] - offsets[0]
    if bits % 8 or bits // 8 != nbytes:
        raise error(
            f"The header gives it {nbytes:,} bytes, but shape {tuple(shape)} of {dtype} takes {-(-bits // 8):,}.",
            where=where, remedy=_AGAIN,
        )  # fmt: skip
    return TensorLocation(path, data_start + offsets[0], nbytes, dtype, tuple(shape))


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_cover(
    located: dict[str, TensorLocation], data_start: int, file_bytes: int, where: str, error: type[TrtbenchError]
) -> None:
    """Every byte after the header belongs to exactly one tensor, and all of them are there."""
    reached, previous = data_start, "the header"
    for name, place in located.items():
        if place.offset < reached:
            raise error(
                f"The bytes of {name!r} overlap those of {previous!r} by {reached - place.offset:,}.",
                where=where, remedy=_AGAIN,
            )  # fmt: skip
        if place.offset > reached:
            raise error(
                f"{place.offset - reached:,} bytes between {previous!r} and {name!r} belong to no tensor.",
                where=where, remedy=_AGAIN,
            )  # fmt: skip
        reached, previous = place.offset + place.nbytes, name
        if reached > file_bytes:
            raise error(
                f"The file is truncated: {name!r} should end at byte {reached:,}, and the file has {file_bytes:,}.",
                where=where, remedy=_AGAIN,
            )  # fmt: skip
    if reached < file_bytes:
        raise error(
            f"{file_bytes - reached:,} bytes follow the last tensor: the header and the data do not belong together.",
            where=where, remedy=_AGAIN,
        )  # fmt: skip
