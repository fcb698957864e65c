"""Which files hold a Hugging Face folder's weights, and which tensor lies in which shard."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import IntakeError
from .identify import identify, visible_names
from .model_config import read_json_object

_SHARD = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(?:safetensors|bin)$")
# Files that training leaves beside the weights and that end in .bin too.
_NOT_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.bin", "random_states")


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of one folder.

    Attributes
    ----------
    format
        ``"safetensors"`` or ``"bin"``.
    files
        The files, in order of their names.
    shard_of
        Tensor name → file, from the index; None for a folder without an index.
    index
        The index file, or None.
    """

    format: str
    files: tuple[Path, ...]
    shard_of: dict[str, Path] | None
    index: Path | None


def find_weight_files(directory: Path) -> WeightFiles:
    """Find the weights in the order that transformers does: safetensors before .bin, one file before an index.

    Raises
    ------
    IntakeError
        No weights (the message says what the folder looks like), shards missing, or an index that makes no sense.
    """
    names = visible_names(directory)
    for suffix, single in (("safetensors", "model.safetensors"), ("bin", "pytorch_model.bin")):
        if single in names:
            return WeightFiles(suffix, (directory / single,), None, None)
        index = f"{single}.index.json"
        if index in names:
            return _from_index(directory, index, suffix)
        found = _without_index(directory, names, suffix)
        if found is not None:
            return found
    kind = identify(directory)
    raise IntakeError(f"No weights to read here: this is {kind.description}.", where=str(directory), remedy=kind.remedy)


def _from_index(directory: Path, index: str, suffix: str) -> WeightFiles:
    path = directory / index
    weight_map = read_json_object(path, what="index of the weight files").get("weight_map")
    where = str(path)
    if not isinstance(weight_map, dict) or not weight_map:
        raise IntakeError("The index has no weight_map.", where=where, remedy="Fetch the index again.")
    for name, file in weight_map.items():
        if not isinstance(file, str) or not file.endswith(f".{suffix}") or Path(file).name != file or "\\" in file:
            raise IntakeError(
                f"The index sends tensor {name!r} to {file!r}, which is not a .{suffix} file of this folder.",
                where=where, remedy="Fetch the index again.",
            )  # fmt: skip
    files = sorted(set(weight_map.values()))
    missing = [file for file in files if not (directory / file).is_file()]
    if missing:
        _refuse_missing(missing, len(files), where)
    shard_of = {name: directory / file for name, file in weight_map.items()}
    return WeightFiles(suffix, tuple(directory / file for file in files), shard_of, path)


def _without_index(directory: Path, names: list[str], suffix: str) -> WeightFiles | None:
    """Accept weights under other names, and shards whose index is missing: their own headers name the tensors."""
    found = [name for name in names if name.endswith(f".{suffix}") and not name.startswith(_NOT_WEIGHTS)]
    found = [name for name in found if not name.startswith("adapter_")]
    # Mistral ships the same weights twice; the consolidated copy has another naming of tensors.
    found = [name for name in found if not name.startswith("consolidated")] or found
    if not found or (suffix == "bin" and (directory / "config.ini").exists()):
        return None
    for name in found:
        match = _SHARD.match(name)
        if match:
            count = int(match["count"])
            expected = [f"{match['stem']}-{number:05d}-of-{count:05d}.{suffix}" for number in range(1, count + 1)]
            missing = [file for file in expected if file not in found]
            if missing:
                _refuse_missing(missing, count, str(directory))
    return WeightFiles(suffix, tuple(directory / name for name in found), None, None)


def _refuse_missing(missing: list[str], count: int, where: str) -> None:
    shown = ", ".join(missing[:4]) + (", …" if len(missing) > 4 else "")
    raise IntakeError(
        f"{len(missing)} of {count} weight files are missing: {shown}.",
        where=where, remedy="Finish the download (the `download` verb continues where it stopped) or copy them here.",
    )  # fmt: skip
