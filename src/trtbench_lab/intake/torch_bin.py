"""PyTorch ``.bin`` weight files, loaded weights-only: a pickle that would run code is refused, never run."""

from __future__ import annotations

import errno
import os
import re
import warnings
from pathlib import Path

import torch

from ..errors import IntakeError
from ..storage import storage_error

_GLOBAL = re.compile(r"(?:GLOBAL|global:?)\s+([A-Za-z_][\w.]*)")
_AGAIN = "Fetch the file again, or use the model's safetensors files."


def load_torch_bin(path: Path) -> dict[str, torch.Tensor]:
    """Load a state dict saved by ``torch.save``.

    The unpickler is torch's weights-only one, which builds tensors and plain containers and nothing else. Archives are
    memory-mapped; files of the format before torch 1.6 cannot be and are read into memory.

    Returns
    -------
    dict[str, torch.Tensor]
        Tensors on the CPU; they may share storage and be strided views.

    Raises
    ------
    IntakeError
        The pickle asks for code, the file is truncated or corrupt, or it is not a table of tensors.
    StorageError
        The file cannot be read.
    """
    where = str(path)
    try:
        with open(path, "rb") as handle:
            start = handle.read(4)
    except OSError as error:
        raise storage_error(error, path, "read the file") from error
    if not start:
        raise IntakeError("The file is empty.", where=where, remedy=_AGAIN)
    if start == b"vers":
        raise IntakeError("The file is a Git LFS pointer, not the weights.", where=where, remedy="Run `git lfs pull`.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the loader remarks on pickle protocols; its refusals are errors
            loaded = _load(path, mapped=start == b"PK\x03\x04")
    except MemoryError:
        raise
    except Exception as error:  # on damaged bytes the unpickler raises whatever the bytes lead it to
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a seek that damaged bytes led to
            raise storage_error(error, path, "read the file") from error
        raise _refusal(error, where) from error
    return _table_of_tensors(loaded, where)


def _load(path: Path, *, mapped: bool) -> object:
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:  # torch's archive reader takes UTF-8 names only; an open file has no name
        with open(path, "rb") as handle:
            return torch.load(handle, map_location="cpu", weights_only=True)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _refusal(error: Exception, where: str) -> IntakeError:
    text = str(error)
    asked = _GLOBAL.search(text)
    if asked or "TorchScript" in text:
        wanted = f"run {asked[1]!r}" if asked else "run a TorchScript program"
        return IntakeError(
            f"Loading this file would {wanted}: it holds more than weights, and nothing of it was run.",
            where=where,
            remedy="Use the model's safetensors files. If you trust the file, convert it elsewhere with "
            "save_pretrained(safe_serialization=True).",
            details=text,
        )
    return IntakeError(
        f"The file is truncated, corrupt or no PyTorch weight file ({type(error).__name__}).",
        where=where, remedy=_AGAIN, details=text,
    )  # fmt: skip


def _table_of_tensors(loaded: object, where: str) -> dict[str, torch.Tensor]:
    if not isinstance(loaded, dict):
        kind = type(loaded).__name__
        raise IntakeError(f"The file holds a {kind}, not a table of tensors.", where=where, remedy=_AGAIN)
    table: dict[str, torch.Tensor] = {}
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise IntakeError(
                f"Entry {name!r} is a {type(value).__name__}, not a tensor: this is no plain state dict.",
                where=where, remedy="Save the model's state_dict() alone, best as safetensors.",
            )  # fmt: skip
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise IntakeError(
                f"Tensor {name!r} is not a plain dense tensor.", where=where, remedy="Save dense tensors on the CPU."
            )
        table[name] = value.detach()
    return table
