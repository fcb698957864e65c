"""Compiled kernels that travel with an engine: one archive, unpacked once a machine, used instead of compiling.

Triton keeps what it compiles in a folder by content hash. While an engine is warmed up at build time that folder is one
of its own, which then becomes a file of the engine; when the engine is loaded the kernels it needs are found there.

A kernel is several files, which Triton lists with their whole paths in a file of that kernel's; it compiles anew where
they are not found. The archive holds bare names, and a folder's lists are made to name the files that lie in it.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ....errors import EngineError, StorageError
from ....storage import digest_of_file, home_dir, staged_file, storage_error

_LIST = "__grp__"


def kernels_file_name(rank: int) -> str:
    """Name of the archive in an engine folder."""
    return f"rank{rank}.kernels"


class KernelStore:
    """A folder that Triton looks for compiled kernels in, and adds to; None leaves Triton's own choice.

    Parameters
    ----------
    folder
        The folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let Triton read and keep compiled kernels here while the body lasts."""
        knobs = _knobs()
        if self.folder is None or knobs is None:
            yield
            return
        before = knobs.cache.dir
        knobs.cache.dir = str(self.folder)
        try:
            yield
        finally:
            knobs.cache.dir = before

    def keep_driver(self) -> None:
        """Keep Triton's own module for the driver here too: a C compiler makes it, which another machine may lack."""
        from triton.runtime import driver

        kind = type(driver.active.utils)
        with self.used():
            kind.__init__(object.__new__(kind))  # finds it in the store, or compiles it there

    def pack(self, path: Path) -> int:
        """Write the folder's files into the archive `path`; return how many kernels it holds."""
        kernels = 0
        try:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                for file in sorted(self.folder.rglob("*")) if self.folder is not None else ():
                    if file.is_file() and not file.name.endswith(".lock"):
                        name = file.relative_to(self.folder).as_posix()  # type: ignore[arg-type]
                        if file.name.startswith(_LIST):
                            archive.writestr(name, _list_of(file, ""))
                        else:
                            archive.write(file, name)
                        kernels += file.suffix == ".cubin"
        except OSError as error:
            raise storage_error(error, path, "write the compiled kernels") from error
        return kernels


def store_of(engine_file: Path) -> KernelStore:
    """Return the store of an engine: its archive, unpacked under the home folder; an empty one where there is none.

    Raises
    ------
    EngineError
        When the archive is damaged or names files outside of its folder.
    """
    archive_path = engine_file.with_suffix(".kernels")
    if not archive_path.is_file():
        return KernelStore()
    folder = (home_dir() / "kernels" / digest_of_file(archive_path).partition(":")[2]).absolute()
    if folder.is_dir():
        _settle(folder)
        return KernelStore(folder)
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(archive_path) as archive:
            for name in archive.namelist():
                if Path(name).is_absolute() or ".." in Path(name).parts:
                    raise EngineError(
                        f"The archive of kernels names a file outside of it: {name!r}.",
                        where=str(archive_path),
                        remedy="Do not use this engine; build it again.",
                    )
            archive.extractall(scratch)
        _settle(scratch, folder)
        scratch.rename(folder)
    except zipfile.BadZipFile as error:
        raise EngineError(
            "The archive of compiled kernels is damaged.", where=str(archive_path), remedy="Build the engine again."
        ) from error
    except OSError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        if folder.is_dir():  # another process has unpacked it meanwhile
            return KernelStore(folder)
        raise storage_error(error, folder, "unpack the compiled kernels") from error
    return KernelStore(folder)


def _settle(held: Path, folder: Path | None = None) -> None:
    """Let the lists below `held` name the files that lie beside them, in `folder` once it is moved there."""
    folder = folder or held
    for path in held.glob(f"*/{_LIST}*"):
        content = _list_of(path, f"{folder / path.parent.name}{os.sep}")
        if content != path.read_text(encoding="utf-8"):
            # In a folder that may not be written the kernels are compiled again.
            with suppress(OSError, StorageError), staged_file(path) as staging:
                staging.write_text(content, encoding="utf-8")


def _list_of(path: Path, before: str) -> str:
    """Return the content of a kernel's list of files with `before` in front of their bare names."""
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["child_paths"]
        return json.dumps({"child_paths": {name: f"{before}{name}" for name in files}})
    except (ValueError, KeyError, TypeError):
        return path.read_text(encoding="utf-8")  # nothing of this version of Triton


def forget_compiled() -> None:
    """Let this engine's kernels be looked up anew, so that a fresh store gets those that are used from here on."""
    try:
        from triton.runtime.jit import JITFunction
    except ImportError:
        return
    import gc

    for found in gc.get_objects():
        # By type, not isinstance: asked for their class, deprecated names of torch warn.
        if issubclass(type(found), JITFunction) and "trtbench_lab" in getattr(found, "__module__", ""):
            found.device_caches.clear()


def _knobs() -> Any:
    try:
        import triton
    except ImportError:
        return None
    return triton.knobs
