"""Saving one rank at a time: for processes that each hold one rank of a model in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError
from ..families.foreign import config_to_json
from ..storage import digest_of_file, folder_lock, refuse_existing, staged_file, write_json
from .layout import expected_tensors
from .manifest import Manifest, read_json, read_manifest
from .rank_file import RankFile
from .reader import CONFIG, rank_file_name
from .writer import check_space, rank_bytes

if TYPE_CHECKING:
    import torch

    from ..specs import ModelConfig

_WAIT_S = 60.0  # for another rank to note its file in the manifest


def save_rank(
    directory: Path | str,
    config: ModelConfig,
    weights: Mapping[str, torch.Tensor],
    *,
    save_config: bool = True,
    overwrite: bool = False,
    source: str | None = None,
    source_digest: str | None = None,
) -> None:
    """Write the file of ``config.mapping.rank``, whole or not at all, and note it in the manifest.

    Parameters
    ----------
    directory
        The checkpoint's folder; made when it is not there.
    config
        The model; its mapping says which rank.
    weights
        The tensors of `expected_tensors`.
    save_config
        Write config.json as well.
    overwrite
        Replace this rank's file.
    source, source_digest
        Name and digest of what the weights come from: `open_checkpoint` refuses ranks of different sources.

    Raises
    ------
    CheckpointError
        The folder holds another model, or the weights do not fit.
    StorageError
        The rank's file exists, or the disk fails.
    """
    directory = Path(directory).expanduser().resolve()
    rank = config.mapping.rank
    path = directory / rank_file_name(rank)
    _check_same_model(directory, config)
    if not overwrite:
        refuse_existing(path)
    check_space(directory, rank_bytes(config, rank))
    metadata = {"source_digest": source_digest} if source_digest else {}
    with staged_file(path) as staging, RankFile(staging, expected_tensors(config, config.mapping), metadata) as file:
        for name in file.names:
            file.write(name, weights[name])
        entry = file.finish()
    with folder_lock(directory, timeout_s=_WAIT_S):
        manifest = read_manifest(directory) or Manifest({}, source)
        entries = {**manifest.files, path.name: entry}
        if save_config:
            _check_same_model(directory, config)
            write_json(directory / CONFIG, config_to_json(config))
        if (directory / CONFIG).is_file():
            size = (directory / CONFIG).stat().st_size
            entries[CONFIG] = {"bytes": size, "digest": digest_of_file(directory / CONFIG)}
        replace(manifest, files=dict(sorted(entries.items()))).write(directory)


def _check_same_model(directory: Path, config: ModelConfig) -> None:
    path = directory / CONFIG
    if path.is_file() and read_json(path) != config_to_json(config):
        raise CheckpointError(
            "The folder holds a checkpoint of another model or another layout.",
            where=str(path),
            remedy="Save into an empty folder.",
        )
