"""Opening a checkpoint: whole or refused, then memory-mapped tensors by rank."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError, IntakeError
from ..families.foreign import complete_config
from ..specs import ModelConfig
from ..storage import digest_of_file, is_partial
from .layout import expected_tensors
from .location import TensorLocation
from .manifest import Manifest, read_json, read_manifest
from .rank_digest import digest_of_rank_file
from .safetensors_file import SafetensorsFile, read_metadata, torch_dtype_name

if TYPE_CHECKING:
    import torch

CONFIG = "config.json"
_RANK_FILE = re.compile(r"rank(\d+)\.safetensors")
_AGAIN = "Convert the model again."


class RankWeights(Mapping[str, "torch.Tensor"]):
    """The tensors of one rank by name: memory-mapped, read when touched.

    Parameters
    ----------
    path
        ``rank{R}.safetensors``.
    rank
        R.
    order
        Names in the order of the network.
    """

    def __init__(self, path: Path, rank: int, order: tuple[str, ...]):
        self.path = path
        self.rank = rank
        self._file = SafetensorsFile(path)
        self._order = order

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._file:
            raise KeyError(name)
        return self._file.tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, name: object) -> bool:
        return name in self._file

    def __repr__(self) -> str:
        return f"RankWeights({str(self.path)!r}, {len(self)} tensors)"

    def names(self) -> tuple[str, ...]:
        """Return the tensors' names in the order of the network."""
        return self._order

    def location(self, name: str) -> TensorLocation:
        """Return the byte range of tensor `name`."""
        return self._file.location(name)

    def release(self, name: str) -> None:
        """Give the memory pages of tensor `name` back; they are read again when touched again."""
        self._file.release(name)


class Checkpoint:
    """A whole checkpoint; made by `open_checkpoint`.

    Attributes
    ----------
    directory
        The folder.
    config
        The model, its mapping and its quantization.
    manifest
        Sizes and digests; None for a checkpoint that another tool wrote.
    """

    def __init__(self, directory: Path, config: ModelConfig, manifest: Manifest | None):
        self.directory = directory
        self.config = config
        self.manifest = manifest

    def __repr__(self) -> str:
        mapping = self.config.mapping
        return (
            f"Checkpoint({str(self.directory)!r}, {self.config.architecture}, {self.config.dtype}, "
            f"tp {mapping.tp_size} × pp {mapping.pp_size}, {self.nbytes:,} bytes)"
        )

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.config.mapping.world_size

    @property
    def source_dir(self) -> Path | None:
        """Folder of the model that the weights came from, where it is known and still there."""
        recorded = self.manifest.source if self.manifest is not None else None
        return Path(recorded) if recorded and Path(recorded).is_absolute() and Path(recorded).is_dir() else None

    @property
    def nbytes(self) -> int:
        """Bytes of all rank files."""
        return sum(self.path(rank).stat().st_size for rank in range(self.world_size))

    @cached_property
    def digest(self) -> str:
        """Digest of all content, for cache keys; read from the manifest, else computed from the files once."""
        if self.manifest is not None:
            return self.manifest.digest
        names = [CONFIG, *(self.path(rank).name for rank in range(self.world_size))]
        files = {name: {"bytes": 0, "digest": _digest(self.directory / name)} for name in names}
        return Manifest(files).digest

    def path(self, rank: int) -> Path:
        """Return the file of one rank."""
        return self.directory / rank_file_name(rank)

    def rank(self, rank: int) -> RankWeights:
        """Return the tensors of one rank.

        Raises
        ------
        CheckpointError
            When there is no such rank.
        """
        if not 0 <= rank < self.world_size:
            raise CheckpointError(
                f"There is no rank {rank}: the checkpoint has ranks 0 to {self.world_size - 1}.",
                where=str(self.directory),
                remedy="Choose one of them, or convert for more ranks.",
            )
        order = tuple(expected_tensors(self.config, self.config.mapping.with_rank(rank)))
        return RankWeights(self.path(rank), rank, order)

    def verify(self, before_each: Callable[[], None] | None = None) -> None:
        """Read every file and compare it with the manifest.

        Parameters
        ----------
        before_each
            Called before each file; may raise to stop.

        Raises
        ------
        CheckpointError
            When a file is not what was written, or there is no manifest to compare with.
        """
        if self.manifest is None:
            raise CheckpointError(
                "There is no manifest.json to verify against.",
                where=str(self.directory),
                remedy="Checkpoints that other tools wrote cannot be verified; convert the model here.",
            )
        for name, entry in self.manifest.files.items():
            if before_each is not None:
                before_each()
            if _digest(self.directory / name) != entry["digest"]:
                raise CheckpointError(
                    "The file was damaged or changed after it was written.",
                    where=str(self.directory / name),
                    remedy=_AGAIN,
                )


def _digest(path: Path) -> str:
    return digest_of_rank_file(path) if _RANK_FILE.fullmatch(path.name) else digest_of_file(path)


def rank_file_name(rank: int) -> str:
    """Return ``rank{R}.safetensors``."""
    return f"rank{rank}.safetensors"


def open_checkpoint(directory: Path | str, *, verify: bool = False) -> Checkpoint:
    """Open a checkpoint folder.

    Headers of all ranks are read and compared with what the configuration needs; tensor bytes are not.

    Parameters
    ----------
    directory
        Folder with config.json and ``rank{R}.safetensors``, written here or by TensorRT-LLM 0.16.
    verify
        Read every file and compare its digest with the manifest's as well.

    Raises
    ------
    CheckpointError
        When it is unfinished, incomplete, damaged, or its parts do not belong together.
    IntakeError, SpecError
        When its configuration asks for what this version does not do.
    """
    directory = Path(directory).expanduser()
    _refuse_unfinished(directory)
    config = _config(directory)
    manifest = read_manifest(directory)
    world = config.mapping.world_size
    _check_files(directory, config, manifest)
    origins = set()
    for rank in range(world):
        path = directory / rank_file_name(rank)
        check_rank_file(path, config, rank)
        origins.add(read_metadata(path).get("source_digest"))
    if len(origins) > 1:
        raise CheckpointError(
            "The rank files come from different sources.",
            where=str(directory),
            remedy="Write all ranks of one model into an empty folder.",
        )
    checkpoint = Checkpoint(directory, config, manifest)
    if verify:
        checkpoint.verify()
    return checkpoint


def check_rank_file(path: Path, config: ModelConfig, rank: int) -> None:
    """Raise `CheckpointError` unless the file holds exactly the tensors of `rank`, in their shapes and types."""
    found = SafetensorsFile(path).locations
    expected = expected_tensors(config, config.mapping.with_rank(rank))
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    if missing or extra:
        parts = [f"{len(missing)} missing ({_some(missing)})"] if missing else []
        parts += [f"{len(extra)} that do not belong there ({_some(extra)})"] if extra else []
        raise CheckpointError(
            f"The file's tensors do not fit config.json: {'; '.join(parts)}.", where=str(path), remedy=_AGAIN
        )
    for name, (shape, dtype) in expected.items():
        place = found[name]
        stored = torch_dtype_name(place.dtype)
        if place.shape != shape or stored != dtype:
            raise CheckpointError(
                f"The tensor is {stored} {place.shape}, and config.json needs {dtype} {shape}.",
                where=f"{path}, tensor {name}",
                remedy=_AGAIN,
            )


def _refuse_unfinished(directory: Path) -> None:
    if is_partial(directory):
        raise CheckpointError(
            "This is what a conversion that never finished left behind.", where=str(directory), remedy=_AGAIN
        )
    if not directory.is_dir():
        raise CheckpointError("There is no such folder.", where=str(directory), remedy="Check the path.")
    if not (directory / CONFIG).is_file():
        raise CheckpointError(
            "The folder has no config.json, so it is no whole checkpoint.",
            where=str(directory),
            remedy="Check the path, or convert the model.",
        )


def _config(directory: Path) -> ModelConfig:
    path = directory / CONFIG
    raw = read_json(path)
    if "architectures" in raw or "model_type" in raw:
        raise CheckpointError(
            "This is a Hugging Face model folder, not a checkpoint.",
            where=str(directory),
            remedy="Convert it first: `convert`, or from_hugging_face(…).save_checkpoint(…).",
        )
    try:
        return complete_config(raw, where=str(path))
    except IntakeError as error:
        raise CheckpointError(error.what, where=error.where, remedy=error.remedy) from error


def _check_files(directory: Path, config: ModelConfig, manifest: Manifest | None) -> None:
    world = config.mapping.world_size
    if world != config.mapping.tp_size * config.mapping.pp_size:
        raise CheckpointError(
            f"world_size {world} is not tp_size {config.mapping.tp_size} × pp_size {config.mapping.pp_size}.",
            where=str(directory / CONFIG),
            remedy=_AGAIN,
        )
    ranks = {int(match[1]) for path in directory.iterdir() if (match := _RANK_FILE.fullmatch(path.name))}
    missing = sorted(set(range(world)) - ranks)
    if missing:
        raise CheckpointError(
            f"{len(missing)} of {world} rank files are missing: {_some([rank_file_name(rank) for rank in missing])}.",
            where=str(directory),
            remedy="Copy the whole folder, or convert the model again.",
        )
    if extra := sorted(ranks - set(range(world))):
        raise CheckpointError(
            f"{rank_file_name(extra[0])} does not belong to a checkpoint of {world} ranks.",
            where=str(directory),
            remedy="Ranks of another conversion lie in this folder; convert into an empty one.",
        )
    if manifest is None:
        return
    for name in (CONFIG, *(rank_file_name(rank) for rank in range(world))):
        entry = manifest.files.get(name)
        size = (directory / name).stat().st_size
        if entry is None or entry["bytes"] != size:
            told = "not listed" if entry is None else f"{entry['bytes']:,} bytes long"
            raise CheckpointError(
                f"The file has {size:,} bytes and is {told} in the manifest.",
                where=str(directory / name),
                remedy=_AGAIN,
            )


def _some(names: list[str], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (f", … {len(names) - limit} more" if len(names) > limit else "")
