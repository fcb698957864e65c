"""Files and folders that are either whole or absent: staged writes, folder locks, digests, the cache's place."""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import secrets
import shutil
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from .errors import FolderInUseError, StorageError

_PARTIAL_MARK = ".partial-"
_RETIRED = "-old"


def home_dir() -> Path:
    """Return the folder for caches and the results database: ``$TRTBENCH_HOME`` or ``~/.cache/trtbench-lab``."""
    configured = os.environ.get("TRTBENCH_HOME")
    # Both variables count as unset when they are empty.
    base = Path(configured) if configured else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "trtbench-lab"
    return base.expanduser()


def is_partial(path: Path) -> bool:
    """Whether `path` is the leftover of a write that never finished."""
    return _PARTIAL_MARK in path.name


def is_abandoned(path: Path) -> bool:
    """Whether `path` is such a leftover and its process, one of this machine, is gone."""
    if not is_partial(path):
        return False
    pid, _, rest = path.name.split(_PARTIAL_MARK, 1)[1].partition("-")
    return pid.isdigit() and rest.startswith(f"{_host()}-") and not _alive(int(pid))


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
    staging = _staging_name(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)  # first, for it may give a folder back
        if not overwrite:
            refuse_existing(target)
        staging.mkdir()
    except OSError as error:
        raise storage_error(error, target, "create the output folder") from error
    try:
        yield staging
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        if isinstance(error, OSError) and _is_write_fault(error, staging):
            raise storage_error(error, target, "write the output folder") from error
        raise
    try:
        if not overwrite:
            refuse_existing(target)
        _put_in_place(staging, target)
    except OSError as error:
        raise storage_error(error, target, "write the output folder") from error
    finally:
        _remove(staging)  # what failed, or what was replaced


@contextmanager
def staged_file(target: Path | str) -> Iterator[Path]:
    """Write a hidden sibling file, then rename it over `target` in one step; nothing changes when the body raises."""
    target = Path(target)
    staging = _staging_name(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
    except OSError as error:
        raise storage_error(error, target, "write the file") from error
    try:
        yield staging
        _fsync(staging)
        os.replace(staging, target)
    except BaseException as error:
        _remove(staging)
        if isinstance(error, OSError) and _is_write_fault(error, staging):
            raise storage_error(error, target, "write the file") from error
        raise


def write_json(target: Path | str, payload: Any) -> None:
    """Write `payload` as indented JSON, atomically."""
    with staged_file(target) as staging:
        # A path of undecodable bytes holds lone surrogates; as backslash escapes they are valid JSON.
        text = json.dumps(payload, indent=2, ensure_ascii=False) + "\n"
        staging.write_bytes(text.encode("utf-8", "backslashreplace"))


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
    FolderInUseError
        When another writer still holds it after `timeout_s` seconds; the message names its process.
    StorageError
        When the lock file cannot be made.
    """
    target = Path(target)
    path = target.with_name(f".{target.name}.lock")
    deadline = time.monotonic() + timeout_s
    while (handle := _try_lock(path, target)) is None:
        if time.monotonic() >= deadline:
            raise _in_use(path, target)
        time.sleep(0.05)
    with handle:
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _try_lock(path: Path, target: Path) -> IO[str] | None:
    """Return the locked lock file, or None while another writer holds it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            handle = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - it stays open as long as the lock is held
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(handle.fileno()).st_ino == os.stat(path).st_ino:
                    return handle
            except FileNotFoundError:
                pass
            except BaseException as error:
                handle.close()
                if isinstance(error, BlockingIOError):
                    return None
                raise
            handle.close()  # the last holder has unlinked this very file meanwhile: lock its successor
    except OSError as error:
        raise storage_error(error, target, "lock the output folder") from error


def _in_use(path: Path, target: Path) -> FolderInUseError:
    try:
        holder = path.read_text(encoding="utf-8").strip()
    except OSError:
        holder = ""
    if holder == str(os.getpid()):
        who = "This very process (another thread or cell)"
    else:
        who = f"Another process (pid {holder or 'unknown'})"
    return FolderInUseError(
        f"{who} is writing this folder.",
        where=str(target),
        remedy="Wait until it has finished, or choose another output folder.",
    )


def digest_of_file(path: Path | str, *, chunk_bytes: int = 1 << 20) -> str:
    """Return ``"xxh3_128:<hex>"`` of a file's content: a check against damage, not against an adversary.

    XXH3 reads faster than a disk delivers (over 10 GB/s), so that verifying on load costs next to nothing.
    """
    import xxhash

    state = xxhash.xxh3_128()
    # One buffer that stays in the processor's cache: memory of its own for each piece halves the rate.
    buffer = bytearray(chunk_bytes)
    view = memoryview(buffer)
    try:
        with open(path, "rb", buffering=0) as handle:
            while count := handle.readinto(buffer):
                state.update(view[:count])
    except OSError as error:
        raise storage_error(error, path, "read the file") from error
    return f"xxh3_128:{state.hexdigest()}"


def digest_of_json(payload: Any) -> str:
    """Return the digest of a JSON-serialisable value, independent of key order."""
    import xxhash

    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"xxh3_128:{xxhash.xxh3_128_hexdigest(text.encode('utf-8', 'backslashreplace'))}"


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _staging_name(target: Path) -> Path:
    """Return a fresh hidden sibling's name that says which process on which machine owns it."""
    return target.with_name(f".{target.name}{_PARTIAL_MARK}{os.getpid()}-{_host()}-{secrets.token_hex(4)}")


def _host() -> str:
    # On a shared file system another machine's process ids mean nothing here, so leftovers are told apart by machine.
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _put_in_place(staging: Path, target: Path) -> None:
    """Rename `staging` to `target`; what was there is `staging` afterwards, or back in its place when that fails."""
    if not target.exists():
        os.rename(staging, target)
    elif not _exchange(staging, target):
        retired = _staging_name(target)
        retired = retired.with_name(retired.name + _RETIRED)
        os.rename(target, retired)
        try:
            os.rename(staging, target)
        except BaseException:
            os.rename(retired, target)
            raise
        _remove(retired)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths in one step where the system can (Linux's renameat2), so that no moment is without a target."""
    import ctypes

    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    at_working_directory, exchange = -100, 2
    status = rename(at_working_directory, os.fsencode(first), at_working_directory, os.fsencode(second), exchange)
    return bool(status == 0)


def _is_write_fault(error: OSError, staging: Path) -> bool:
    """Whether an error of the body is about the disk or the staged files, rather than about something it read."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO):
        return True
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes, Path))]
    return any(name.startswith(str(staging)) for name in names)


def _sweep(target: Path) -> None:
    """Remove what dead processes left of earlier attempts at `target`, or give back what they had set aside."""
    for leftover in target.parent.glob(f".{glob.escape(target.name)}{_PARTIAL_MARK}*"):
        if not is_abandoned(leftover):
            continue
        if leftover.name.endswith(_RETIRED) and not target.exists():
            os.rename(leftover, target)
        else:
            _remove(leftover)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
