"""Puts a whole engine into another folder: hard links to the cache where the file system can, else copies."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from ..errors import StorageError
from ..storage import refuse_existing, staged_folder, write_json
from .config import EngineConfig
from .names import CONFIG_NAME

# What file systems answer that cannot link here: another device, not supported, forbidden, too many links.
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES}

READ_ONLY = 0o444


def copy_engine(
    source_dir: Path,
    config: EngineConfig,
    target_dir: Path,
    *,
    overwrite: bool,
    link: bool,
    check: Callable[[], None] | None = None,
) -> str:
    """Write the engine of `source_dir` into `target_dir` as a whole, and return how, as a sentence.

    Linked files are read-only: an edit in place would change the cache's copy too. `check` is called between files.

    Raises
    ------
    StorageError
        When the target exists without `overwrite`, holds something that is no engine, or cannot be written.
    """
    refuse_replacing(target_dir, overwrite=overwrite)
    reason: str | None = None
    with staged_folder(target_dir, overwrite=overwrite) as staging:
        for name in sorted(config.files):
            if check is not None:
                check()
            source, target = source_dir / name, staging / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if link and reason is None:
                try:
                    os.link(source, target)
                    continue
                except OSError as error:
                    if error.errno not in _NO_LINK:
                        raise
                    reason = (error.strerror or str(error)).lower()
            shutil.copyfile(source, target)
        write_json(staging / CONFIG_NAME, config.to_dict())
    if not link:
        return "Copied."
    if reason is None:
        return "Hard links to the cached engine: no further disk space, and pruning the cache does not remove them."
    return f"Copied from the cached engine, because its files cannot be linked here ({reason})."


def refuse_replacing(target_dir: Path, *, overwrite: bool) -> None:
    """Raise `StorageError` when `target_dir` must not be replaced: not asked for, or it holds something else.

    Replacing removes the folder as a whole, so only an engine's folder is ever replaced.
    """
    if not overwrite:
        refuse_existing(target_dir)
        return
    if not target_dir.exists() or (target_dir.is_dir() and not any(target_dir.iterdir())):
        return
    if not target_dir.is_dir() or not _looks_like_engine(target_dir):
        raise StorageError(
            "This is not an engine folder, so it is not replaced.",
            where=str(target_dir),
            remedy="Choose another folder, or remove it yourself.",
        )


def _looks_like_engine(folder: Path) -> bool:
    """A config.json with a ``build_config``, or nothing but what a build writes."""
    try:
        head = (folder / CONFIG_NAME).read_bytes()[: 1 << 20]
    except OSError:
        head = b""
    return b'"build_config"' in head
