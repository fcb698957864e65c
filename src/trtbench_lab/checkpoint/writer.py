"""Writing a checkpoint folder: whole at the end, or not there at all."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

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

Item = TypeVar("Item")


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
        self._lock = threading.Lock()

    def rank(self, rank: int) -> RankFile:
        """Return the file of one rank, created at the first call."""
        with self._lock:
            if rank not in self._files:
                tensors = expected_tensors(self.config, self.config.mapping.with_rank(rank))
                self._files[rank] = RankFile(self.directory / rank_file_name(rank), tensors)
            return self._files[rank]

    def finish(self) -> None:
        """Close all ranks and write config.json and manifest.json; raises `CheckpointError` for missing tensors."""
        entries = {rank_file_name(rank): self.rank(rank).finish() for rank in range(self.config.mapping.world_size)}
        path = self.directory / CONFIG
        write_json(path, config_to_json(self.config))
        entries[CONFIG] = {"bytes": path.stat().st_size, "digest": digest_of_file(path)}
        Manifest(dict(sorted(entries.items())), self._source).write(self.directory)

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

        run_all(write, range(config.mapping.world_size), workers)
    return open_checkpoint(directory)


class Stopped(Exception):
    """Raised by work that gave up because another piece of it failed."""


def run_all(work: Callable[[Item], None], items: Sequence[Item], workers: int) -> None:
    """Call `work` for every item in this order, `workers` at a time; the first fault ends it and is raised."""
    if workers <= 1 or len(items) <= 1:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(max_workers=min(workers, len(items)), thread_name_prefix="checkpoint") as pool:
        tasks = [pool.submit(work, item) for item in items]
        wait(tasks, return_when=FIRST_EXCEPTION)
        for task in tasks:
            task.cancel()
    faults = [fault for task in tasks if not task.cancelled() and (fault := task.exception()) is not None]
    for fault in sorted(faults, key=lambda fault: isinstance(fault, Stopped)):
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
