"""The content-keyed cache of engines: find one, list them with their sizes, and prune those used longest ago."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..errors import BuildCancelled, EngineError, FolderInUseError, RequestError, TrtbenchError
from ..storage import folder_lock, is_abandoned, storage_error
from .config import read_engine_config
from .folder import Engine
from .names import CONFIG_NAME
from .places import cache_dir, entry_dir
from .present import bytes_text, html_table, plain_table
from .verify import verify_files


@dataclass(frozen=True)
class CachedEngine:
    """One entry of the cache.

    Attributes
    ----------
    key
        Name of its folder.
    directory
        The folder.
    backend, model
        What it is; None where its config.json cannot be read.
    size_bytes
        Size of its files.
    freed_bytes
        What removing it frees: files that an output folder links to stay on the disk with that folder.
    last_used
        When it was built or last taken, UTC.
    """

    key: str
    directory: Path
    backend: str | None
    model: str | None
    size_bytes: int
    freed_bytes: int
    last_used: datetime


class CacheListing(tuple[CachedEngine, ...]):
    """Entries of the cache, the last used first, with a table as repr."""

    __slots__ = ()
    _COLUMNS = ("engine", "backend", "model", "size", "freed by pruning", "last used (UTC)")

    @property
    def size_bytes(self) -> int:
        """Size of all entries."""
        return sum(entry.size_bytes for entry in self)

    def __repr__(self) -> str:
        return plain_table(self._title(), self._COLUMNS, self._rows())

    def _repr_html_(self) -> str:
        return html_table(self._title(), self._COLUMNS, self._rows())

    def _title(self) -> str:
        return f"Engine cache {cache_dir()}: {len(self)} engines, {bytes_text(self.size_bytes)}"

    def _rows(self) -> list[list[str | None]]:
        return [
            [
                entry.key[:12],
                entry.backend or "damaged",
                entry.model,
                bytes_text(entry.size_bytes),
                bytes_text(entry.freed_bytes),
                entry.last_used.strftime("%Y-%m-%d %H:%M"),
            ]
            for entry in self
        ]


def find_cached(
    key: str,
    note: Callable[[str], None],
    check: Callable[[], None] | None = None,
) -> Engine | None:
    """Return the cached engine of a key, verified; a damaged one is removed, with a note. Hold the entry's lock.

    Raises
    ------
    BuildCancelled
        From `check`, which is called between files.
    """
    directory = entry_dir(key)
    if not directory.is_dir():
        return None
    try:
        config = read_engine_config(directory)
        verify_files(directory, config, check=check)
        if config.key != key:
            raise EngineError("Its config.json belongs to another engine.", where=str(directory))
    except BuildCancelled:
        raise
    except TrtbenchError as error:
        remove_entry(directory)
        note(f"The cached engine was damaged and has been removed: {error.what} It is built again.")
        return None
    with suppress(OSError):
        os.utime(directory)
    return Engine(directory, config, from_cache=True, placement="Taken from the cache.")


def list_cached() -> CacheListing:
    """Return every engine of the cache, the last used first."""
    entries = []
    for directory in _entries():
        with suppress(FileNotFoundError):  # pruned by another process meanwhile
            entries.append(_described(directory))
    return CacheListing(sorted(entries, key=lambda entry: entry.last_used, reverse=True))


def prune(keep_bytes: int = 0, *, dry_run: bool = False) -> CacheListing:
    """Remove engines, those used longest ago first, until the cache holds at most `keep_bytes`.

    Entries that another process is building or taking are left alone; leftovers of killed builds go in any case.
    Engines that a process has loaded stay usable there: their files go from the disk once it lets go of them.

    Returns
    -------
    CacheListing
        What was removed (with `dry_run`: what would be).
    """
    if isinstance(keep_bytes, bool) or not isinstance(keep_bytes, int) or keep_bytes < 0:
        raise RequestError(
            f"keep_bytes must be a number of bytes from 0 up, not {keep_bytes!r}.", remedy="prune(0) empties the cache."
        )
    if not dry_run:
        _remove_leftovers()
    listed = list_cached()
    held = listed.size_bytes
    removed = []
    for entry in reversed(listed):
        if held <= keep_bytes:
            break
        if not dry_run:
            try:
                with folder_lock(entry.directory):
                    remove_entry(entry.directory)
            except FolderInUseError:
                continue
        held -= entry.size_bytes
        removed.append(entry)
    return CacheListing(removed)


def remove_entry(directory: Path) -> None:
    """Remove an entry; its config.json goes first, so that nobody takes the rest for an engine. Hold its lock."""
    try:
        (directory / CONFIG_NAME).unlink(missing_ok=True)
        shutil.rmtree(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        raise storage_error(error, directory, "remove the cached engine") from error


def _entries() -> Iterable[Path]:
    try:
        found = sorted(cache_dir().iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise storage_error(error, cache_dir(), "list the engine cache") from error
    return [path for path in found if path.is_dir() and not path.name.startswith(".")]


def _described(directory: Path) -> CachedEngine:
    sizes = [(file.stat().st_size, file.stat().st_nlink) for file in directory.rglob("*") if file.is_file()]
    backend = model = None
    with suppress(TrtbenchError):
        config = read_engine_config(directory)
        backend = config.backend
        model = f"{config.pretrained_config.architecture} {config.pretrained_config.num_hidden_layers} layers"
    return CachedEngine(
        key=directory.name,
        directory=directory,
        backend=backend,
        model=model,
        size_bytes=sum(size for size, _ in sizes),
        freed_bytes=sum(size for size, links in sizes if links == 1),
        last_used=datetime.fromtimestamp(directory.stat().st_mtime, UTC),
    )


def _remove_leftovers() -> None:
    """Remove what killed builds have left."""
    for path in cache_dir().glob(".*") if cache_dir().is_dir() else ():
        if path.is_dir() and is_abandoned(path):
            shutil.rmtree(path, ignore_errors=True)
