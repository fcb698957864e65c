"""Files and folders that are either whole or absent: staged writes, folder locks, digests, the cache's place."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .errors import StorageError

_PARTIAL_MARK = ".partial-"


def home_dir() -> Path:
    """Return the folder for caches and the results database: ``$TRTBENCH_HOME`` or ``~/.cache/trtbench-lab``."""
    configured = os.environ.get("TRTBENCH_HOME")
    base = Path(configured) if configured else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "trtbench-lab"
    return base.expanduser()


def is_partial(path: Path) -> bool:
    """Whether `path` is the leftover of a write that never finished."""
    return _PARTIAL_MARK in path.name


def storage_error(error: OSError, path: Path | str, doing: str) -> StorageError:
    """Translate an `OSError` into a sentence with a remedy."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "Free some disk space or choose another output folder; nothing half-written was left behind."
        return StorageError(f"The disk is full: could not {doing}.", where=str(path), remedy=remedy)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError(f"No permission to {doing}.", where=str(path), remedy="Choose a folder you may write to.")
    reason = error.strerror or str(error)
    return StorageError(f"Could not {doing}: {reason}.", where=str(path), remedy="Check the path and the disk.")


@contextmanager
def staged_folder(target: Path | str, *, overwrite: bool = False) -> Iterator[Path]:
    """Fill a hidden sibling folder, then rename it to `target` in one step.

    The body gets the staging folder. When it raises, the staging folder is removed and `target` stays as it was.
    A killed process leaves a folder whose name carries ``.partial-``, which no reader of this project opens and the
    next writer of the same target removes once its process is gone. Bulk data is not forced to the disk (that would
    halve the speed of a conversion); after a power cut the digests kept beside it tell a damaged file.

    Raises
    ------
    StorageError
        When `target` exists and is not empty without `overwrite`, or the disk fails.
    """
    target = Path(target)
    if not overwrite:
        refuse_existing(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        prefix = f".{target.name}{_PARTIAL_MARK}{os.getpid()}-"
        staging = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    except OSError as error:
        raise storage_error(error, target, "create the output folder") from error
    try:
        yield staging
        os.chmod(staging, 0o755)  # mkdtemp makes it private; an engine or checkpoint is meant to be shared
        if target.exists():
            if not overwrite:
                refuse_existing(target)
            retired = target.with_name(f".{target.name}{_PARTIAL_MARK}{os.getpid()}-old")
            os.rename(target, retired)
            os.rename(staging, target)
            shutil.rmtree(retired, ignore_errors=True)
        else:
            os.rename(staging, target)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise storage_error(error, target, "write the output folder") from error
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


@contextmanager
def staged_file(target: Path | str) -> Iterator[Path]:
    """Write a hidden sibling file, then rename it over `target` in one step; nothing changes when the body raises."""
    target = Path(target)
    staging = target.with_name(f".{target.name}{_PARTIAL_MARK}{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield staging
        _fsync(staging)
        os.replace(staging, target)
    except OSError as error:
        staging.unlink(missing_ok=True)
        raise storage_error(error, target, "write the file") from error
    except BaseException:
        staging.unlink(missing_ok=True)
        raise


def write_json(target: Path | str, payload: Any) -> None:
    """Write `payload` as indented JSON, atomically."""
    with staged_file(target) as staging:
        staging.write_text(json.dumps(payload, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def refuse_existing(target: Path) -> None:
    """Raise `StorageError` when `target` is already there and holds something."""
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists():
        raise StorageError(
            "The output folder already exists and is not empty.",
            where=str(target),
            remedy="Choose another folder, or pass overwrite=True (--overwrite) to replace it as a whole.",
        )


@contextmanager
def folder_lock(target: Path | str, *, timeout_s: float = 0.0) -> Iterator[None]:
    """Hold the right to write `target` against other processes; the kernel frees it when the holder dies.

    Raises
    ------
    StorageError
        When another process still holds it after `timeout_s` seconds; the message names its pid.
    """
    target = Path(target)
    path = target.with_name(f".{target.name}.lock")
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle = open(path, "a+", encoding="utf-8")
        except OSError as error:
            raise storage_error(error, target, "lock the output folder") from error
        if _locked(handle, path):
            break
        handle.seek(0)
        holder = handle.read().strip() or "unknown"
        handle.close()
        if time.monotonic() >= deadline:
            raise StorageError(
                f"Another process (pid {holder}) is writing this folder.",
                where=str(target),
                remedy="Wait until it has finished, or choose another output folder.",
            )
        time.sleep(0.05)
    with handle:
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked(handle: IO[str], path: Path) -> bool:
    """Try the lock; a file that its last holder has unlinked meanwhile does not count."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(handle.fileno()).st_ino == os.stat(path).st_ino
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError as error:
        raise storage_error(error, path, "lock the output folder") from error


def digest_of_file(path: Path | str, *, chunk_bytes: int = 1 << 22) -> str:
    """Return ``"xxh3_128:<hex>"`` of a file's content: a check against damage, not against an adversary.

    XXH3 reads faster than a disk delivers (over 10 GB/s), so that verifying on load costs next to nothing.
    """
    import xxhash

    state = xxhash.xxh3_128()
    try:
        with open(path, "rb", buffering=0) as handle:
            while chunk := handle.read(chunk_bytes):
                state.update(chunk)
    except OSError as error:
        raise storage_error(error, path, "read the file") from error
    return f"xxh3_128:{state.hexdigest()}"


def digest_of_json(payload: Any) -> str:
    """Return the digest of a JSON-serialisable value, independent of key order."""
    import xxhash

    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"xxh3_128:{xxhash.xxh3_128_hexdigest(text.encode())}"


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(target: Path) -> None:
    """Remove what dead processes left of earlier attempts at `target`."""
    for leftover in target.parent.glob(f".{target.name}{_PARTIAL_MARK}*"):
        owner = leftover.name.split(_PARTIAL_MARK, 1)[1].split("-", 1)[0]
        if owner.isdigit() and not _alive(int(owner)):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
