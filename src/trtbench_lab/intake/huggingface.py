"""Local Hugging Face folders: config.json and weights in safetensors or ``.bin``, whole or sharded."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.location import TensorLocation
from ..checkpoint.safetensors_file import SafetensorsFile, torch_dtype
from ..errors import IntakeError, did_you_mean
from ..storage import digest_of_file, digest_of_json
from .download_record import refuse_unfinished
from .identify import HUGGINGFACE, identify, require_folder
from .model_config import read_model_config, refuse_quantized
from .torch_bin import load_torch_bin
from .weight_files import WeightFiles, find_weight_files


class HFSource:
    """A Hugging Face folder as a `ModelSource`; made by `open_hf_folder`.

    Headers of all safetensors shards are read and checked when it opens; tensors are memory-mapped. A ``.bin`` shard is
    opened at the first question about one of its tensors.
    """

    def __init__(self, directory: Path, config: dict[str, Any], weights: WeightFiles, *, trust_remote_code: bool):
        self.directory = directory
        self.config = config
        self.weights = weights
        self.trust_remote_code = trust_remote_code
        self._lock = threading.Lock()
        self._digest: str | None = None
        self._bins: dict[Path, dict[str, torch.Tensor]] = {}
        self._shards: dict[Path, SafetensorsFile] = {}
        if weights.format == "safetensors":
            self._shards = {file: SafetensorsFile(file, error=IntakeError) for file in weights.files}
            held = {file: list(shard.locations) for file, shard in self._shards.items()}
            self._file_of = _file_of_each(weights, held)
        elif weights.shard_of is not None:
            self._file_of = dict(sorted(weights.shard_of.items(), key=lambda item: item[1].name))
        else:
            self._file_of = _file_of_each(weights, {file: list(self._bin(file)) for file in weights.files})
        if not self._file_of:
            raise IntakeError("The weight files hold no tensors.", where=str(directory), remedy="Fetch them again.")

    def __repr__(self) -> str:
        kind = (self.config.get("architectures") or [self.config.get("model_type")])[0]
        files = f"{len(self.weights.files)} {self.weights.format} file{'s' if len(self.weights.files) > 1 else ''}"
        return f"HFSource({str(self.directory)!r}, {kind}, {len(self._file_of)} tensors in {files})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes open the folder anew: mappings do not travel.
        return (_reopen, (self.directory, self.trust_remote_code))

    def names(self) -> tuple[str, ...]:
        """Return the tensors' names, file by file, in the order of their bytes."""
        return tuple(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the extents of tensor `name`."""
        place = self.location(name)
        return place.shape if place is not None else tuple(self.tensor(name).shape)

    def dtype(self, name: str) -> torch.dtype:
        """Return the element type of tensor `name`."""
        place = self.location(name)
        return torch_dtype(place.dtype) if place is not None else self.tensor(name).dtype

    def tensor(self, name: str) -> torch.Tensor:
        """Return tensor `name` on the CPU: contiguous and memory-mapped from safetensors, any strides from ``.bin``."""
        file = self._file(name)
        if self.weights.format == "safetensors":
            return self._shards[file].tensor(name)
        try:
            return self._bin(file)[name]
        except KeyError:
            raise self._not_in_shard(name, file) from None

    def location(self, name: str) -> TensorLocation | None:
        """Return the byte range of tensor `name`; None for ``.bin`` files."""
        file = self._file(name)
        return self._shards[file].location(name) if self.weights.format == "safetensors" else None

    def release(self, name: str) -> None:
        """Give the memory pages of tensor `name` back; they are read again when touched again."""
        file = self._file(name)
        if self.weights.format == "safetensors":
            self._shards[file].release(name)

    def digest(self) -> str:
        """Return a digest over config.json and every weight file's content; read once, then remembered."""
        if self._digest is None:
            files = [self.directory / "config.json", *self.weights.files]
            if self.weights.index is not None:
                files.append(self.weights.index)
            self._digest = digest_of_json({file.name: digest_of_file(file) for file in files})
        return self._digest

    def _file(self, name: str) -> Path:
        try:
            return self._file_of[name]
        except KeyError:
            raise IntakeError(
                f"There is no tensor {name!r} among the {len(self._file_of)} of this model.",
                where=str(self.directory), remedy=did_you_mean(name, list(self._file_of), limit=6),
            ) from None  # fmt: skip

    def _bin(self, file: Path) -> dict[str, torch.Tensor]:
        with self._lock:
            if file not in self._bins:
                table = load_torch_bin(file)
                if self.weights.shard_of is not None:
                    expected = [name for name, place in self.weights.shard_of.items() if place == file]
                    absent = [name for name in expected if name not in table]
                    if absent:
                        raise self._not_in_shard(absent[0], file, len(absent))
                self._bins[file] = table
            return self._bins[file]

    def _not_in_shard(self, name: str, file: Path, count: int = 1) -> IntakeError:
        return _absent(name, file, count, self.weights.index or self.directory)


def open_hf_folder(
    directory: Path | str, *, trust_remote_code: bool = False, allow_quantized: bool = False
) -> HFSource:
    """Open a local Hugging Face model folder without executing anything in it.

    Parameters
    ----------
    directory
        Folder with config.json and ``*.safetensors`` or ``*.bin`` (sharded ones with or without their index).
    trust_remote_code
        Accept a model that comes with Python code of its own and is of no architecture that this project knows. The
        code is not run here in any case; a tokenizer may need it.
    allow_quantized
        Pass a folder whose weights another tool has packed; `quantized.source.open_quantized_folder` understands them.

    Returns
    -------
    HFSource
        Configuration and lazy tensors.

    Raises
    ------
    IntakeError
        Not such a folder (the message says what it looks like), unfinished download, malformed configuration, remote
        code without consent, damaged, missing or refused weight files.
    StorageError
        Something cannot be read.
    """
    directory = Path(directory).expanduser()
    require_folder(directory)
    refuse_unfinished(directory)
    kind = identify(directory)
    if kind is not HUGGINGFACE:
        raise IntakeError(
            f"This is {kind.description}, not a Hugging Face model folder.", where=str(directory), remedy=kind.remedy
        )
    config = read_model_config(directory)
    if not trust_remote_code:
        refuse_remote_code(config, directory)
    if not allow_quantized:
        refuse_quantized(config, directory)
    return HFSource(directory, config, find_weight_files(directory), trust_remote_code=trust_remote_code)


def refuse_remote_code(config: dict[str, Any], directory: Path) -> None:
    """Raise `IntakeError` when config.json asks for Python code of the folder and this project has no code of its own.

    A known architecture passes: its weights are read by this project's declaration, and the folder's code stays unread.
    """
    asked = config.get("auto_map")
    if not asked:
        return
    from ..families import family_for_hf

    try:
        family_for_hf(config)
    except IntakeError as unknown:
        code = sorted({str(value).split(".")[0].split("--")[-1] + ".py" for value in asked.values()}) \
            if isinstance(asked, dict) else [str(asked)]  # fmt: skip
        raise IntakeError(
            f"The model comes with Python code of its own ({', '.join(code)[:200]}), which is not run without consent.",
            where=str(directory),
            remedy="Read that code; if you trust it, pass trust_remote_code=True (--trust_remote_code).",
            details=str(unknown),
        ) from None


def _reopen(directory: Path, trust_remote_code: bool) -> HFSource:
    return open_hf_folder(directory, trust_remote_code=trust_remote_code)


def _file_of_each(weights: WeightFiles, held: dict[Path, list[str]]) -> dict[str, Path]:
    """Map tensor → file in reading order, and hold the index against what the shards hold."""
    if weights.shard_of is None:
        file_of: dict[str, Path] = {}
        for file, names in held.items():
            for name in names:
                if name in file_of:
                    raise IntakeError(
                        f"Tensor {name!r} is in two files, {file_of[name].name} and {file.name}, and no index decides.",
                        where=str(file.parent), remedy="Remove the files that do not belong to the model.",
                    )  # fmt: skip
                file_of[name] = file
        return file_of
    known = {file: set(names) for file, names in held.items()}
    absent = [(name, file) for name, file in weights.shard_of.items() if name not in known[file]]
    if absent:
        raise _absent(*absent[0], len(absent), weights.index or absent[0][1])
    return {name: file for file, names in held.items() for name in names if weights.shard_of.get(name) == file}


def _absent(name: str, file: Path, count: int, index: Path) -> IntakeError:
    more = f" (and {count - 1} more)" if count > 1 else ""
    return IntakeError(
        f"The index says that tensor {name!r} is in {file.name}, and it is not there{more}.",
        where=str(index), remedy="Index and weight files are from different downloads: fetch the model again.",
    )  # fmt: skip
