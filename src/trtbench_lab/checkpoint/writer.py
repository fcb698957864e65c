"""Writing a checkpoint folder: whole at the end, or not there at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import StorageError
from ..families.foreign import config_to_json
from ..storage import digest_of_file, folder_lock, refuse_existing, staged_folder, write_json
from .layout import expected_tensors, nbytes
from .manifest import Manifest
from .rank_file import RankFile
from .reader import CONFIG, Checkpoint, open_checkpoint, rank_file_name

if TYPE_CHECKING:
    import torch

    from ..specs import ModelConfig


class CheckpointWriter:
    """The ranks of a checkpoint that is being written; made by `checkpoint_writer`.

    Attributes
    ----------
    directory
        Where the files are written; not yet the final folder.
    config
        What config.json will say.
    """

    def __init__(self, directory: Path, config: ModelConfig, source: str | None):
        self.directory = directory
        self.config = config
        self._source = source
        self._files: dict[int, RankFile] = {}
        self._entries: dict[str, dict[str, Any]] = {}

    def rank(self, rank: int) -> RankFile:
        """Return the file of one rank, created at the first call."""
        if rank not in self._files:
            tensors = expected_tensors(self.config, self.config.mapping.with_rank(rank))
            self._files[rank] = RankFile(self.directory / rank_file_name(rank), tensors)
        return self._files[rank]

    def finish_rank(self, rank: int) -> None:
        """Close the file of one rank and note its digest; raises `CheckpointError` when it is incomplete."""
        self._entries[rank_file_name(rank)] = self.rank(rank).finish()

    def finish(self) -> None:
        """Close all ranks and write config.json and manifest.json."""
        for rank in range(self.config.mapping.world_size):
            if rank_file_name(rank) not in self._entries:
                self.finish_rank(rank)
        path = self.directory / CONFIG
        write_json(path, config_to_json(self.config))
        entry = {"bytes": path.stat().st_size, "digest": digest_of_file(path)}
        Manifest({CONFIG: entry, **dict(sorted(self._entries.items()))}, self._source).write(self.directory)

    def abandon(self) -> None:
        """Close the files as they are."""
        for file in self._files.values():
            file.abandon()


@contextmanager
def checkpoint_writer(
    directory: Path | str, config: ModelConfig, *, source: str | None = None, overwrite: bool = False
) -> Iterator[CheckpointWriter]:
    """Write a checkpoint: the folder appears when the body ends, and not at all when it raises or the process dies.

    Parameters
    ----------
    directory
        The new folder.
    config
        The model with its mapping and quantization.
    source
        Name of what the weights come from, for the manifest.
    overwrite
        Replace an existing folder as a whole.

    Raises
    ------
    StorageError
        The folder exists, another process writes it, or the disk is full or fails.
    CheckpointError
        The model cannot be divided so, or tensors are missing at the end.
    """
    directory = Path(directory).expanduser().resolve()
    total = sum(rank_bytes(config, rank) for rank in range(config.mapping.world_size))
    with folder_lock(directory):
        if not overwrite:
            refuse_existing(directory)
        check_space(directory, total)
        with staged_folder(directory, overwrite=overwrite) as staging:
            writer = CheckpointWriter(staging, config, source)
            try:
                yield writer
                writer.finish()
            finally:
                writer.abandon()


def write_checkpoint(
    directory: Path | str,
    config: ModelConfig,
    tensors_of_rank: Callable[[int], Mapping[str, torch.Tensor]],
    *,
    workers: int = 1,
    source: str | None = None,
    overwrite: bool = False,
) -> Checkpoint:
    """Write a checkpoint from tensors by rank; each is asked for once, in the order of the file, and then dropped.

    Parameters
    ----------
    directory, config, source, overwrite
        See `checkpoint_writer`.
    tensors_of_rank
        Rank → mapping of the names of `expected_tensors`; it may compute its tensors when they are asked for.
    workers
        Ranks written side by side; 1 takes the least memory.

    Returns
    -------
    Checkpoint
        The new checkpoint, opened.
    """
    with checkpoint_writer(directory, config, source=source, overwrite=overwrite) as writer:

        def write(rank: int) -> None:
            tensors, file = tensors_of_rank(rank), writer.rank(rank)
            for name in file.names:
                file.write(name, tensors[name])
            writer.finish_rank(rank)

        run_ranks(write, config.mapping.world_size, workers)
    return open_checkpoint(directory)


class RankStopped(Exception):
    """Raised by the work of a rank that gave up because another one failed."""


def run_ranks(work: Callable[[int], None], world_size: int, workers: int) -> None:
    """Call `work` for every rank, `workers` at a time; the first fault ends it and is raised."""
    if workers <= 1 or world_size == 1:
        for rank in range(world_size):
            work(rank)
        return
    with ThreadPoolExecutor(max_workers=min(workers, world_size), thread_name_prefix="rank") as pool:
        tasks = [pool.submit(work, rank) for rank in range(world_size)]
        wait(tasks, return_when=FIRST_EXCEPTION)
        for task in tasks:
            task.cancel()
    faults = [fault for task in tasks if not task.cancelled() and (fault := task.exception()) is not None]
    for fault in sorted(faults, key=lambda fault: isinstance(fault, RankStopped)):
        raise fault


def rank_bytes(config: ModelConfig, rank: int) -> int:
    """Return the tensor bytes of one rank."""
    tensors = expected_tensors(config, config.mapping.with_rank(rank))
    return sum(nbytes(shape, dtype) for shape, dtype in tensors.values())


def check_space(directory: Path, needed: int) -> None:
    """Raise `StorageError` when the disk that will hold `directory` has fewer than `needed` bytes free."""
    parent = directory
    while not parent.exists():
        parent = parent.parent
    try:
        free = shutil.disk_usage(parent).free
    except OSError:  # a file system that does not say; writing will tell
        return
    if free < needed:
        raise StorageError(
            f"The disk has {free:,} bytes free and the checkpoint takes {needed:,}.",
            where=os.fspath(directory),
            remedy="Free some space, choose another folder, or a smaller dtype. Nothing was written.",
        )
