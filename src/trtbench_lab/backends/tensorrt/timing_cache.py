"""``model.cache``: kernel timings of earlier builds, kept apart by TensorRT version, GPU and driver.

TensorRT trusts a timing cache as long as version and GPU model match; drivers change timings too. So the file holds one
cache for each combination, and a build reads and extends its own. Ranks that are built at the same time merge theirs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import BuildError
from ...storage import storage_error
from .gpu import Gpu

FILE_NAME = "model.cache"
MAGIC = b"trtbench timing cache 1\n"
_MAX_HEADER_BYTES = 1 << 20


def cache_key(version: str, gpu: Gpu) -> str:
    """Return what timings hold for."""
    return f"tensorrt {version} | {gpu.name} sm{gpu.compute_capability} | driver {gpu.driver}"


def read_entries(path: Path) -> dict[str, bytes]:
    """Return key → serialized timing cache; empty where there is no file.

    A file that TensorRT's own tools wrote comes back under the empty key: TensorRT itself checks whether it fits.

    Raises
    ------
    BuildError
        For a file that is cut short.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise storage_error(error, path, "read the timing cache") from error
    if not content.startswith(MAGIC):
        return {"": content} if content else {}
    header, _, body = content[len(MAGIC) :].partition(b"\n")
    try:
        if len(header) > _MAX_HEADER_BYTES:
            raise ValueError("its index is too long")
        sizes = {str(name): int(size) for name, size in json.loads(header).items()}
        if sum(sizes.values()) != len(body) or min(sizes.values(), default=0) < 0:
            raise ValueError("it is cut short")
    except (ValueError, AttributeError, TypeError) as error:
        raise BuildError(
            f"The timing cache cannot be read: {error}", where=str(path), remedy="Remove it; the build times anew."
        ) from error
    entries, start = {}, 0
    for name, size in sizes.items():
        entries[name] = body[start : start + size]
        start += size
    return entries


def write_entries(path: Path, entries: dict[str, bytes]) -> None:
    """Write the file as a whole: a reader sees the old or the new one."""
    header = json.dumps({name: len(content) for name, content in entries.items()}).encode()
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(scratch, "wb") as handle:
            handle.write(MAGIC + header + b"\n")
            for content in entries.values():
                handle.write(content)
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise storage_error(error, path, "write the timing cache") from error


def attach(config: Any, path: Path, key: str) -> tuple[Any, str]:
    """Give the builder's configuration its timings; return the `ITimingCache` and a sentence for the log."""
    entries = read_entries(path)
    known = entries.get(key)
    if known is None:
        known = entries.get("", b"")
    cache = config.create_timing_cache(known)
    if cache is not None and config.set_timing_cache(cache, False):
        said = f"{len(known):,} bytes of kernel timings" if known else "no kernel timings yet"
        return cache, f"Timing cache: {said} for {key}."
    cache = config.create_timing_cache(b"")
    config.set_timing_cache(cache, False)
    return cache, f"Timing cache: what {path.name} holds was refused by TensorRT; kernels are timed anew."


def store(config: Any, path: Path, key: str) -> str:
    """Merge the builder's timings into the file, which other ranks may extend meanwhile; return a sentence."""
    cache = config.get_timing_cache()
    if cache is None:
        return "Timing cache: TensorRT kept none."
    with _locked(path):
        entries = read_entries(path)
        others = entries.get(key)
        if others:
            earlier = config.create_timing_cache(others)
            if earlier is not None:
                cache.combine(earlier, False)
        memory = cache.serialize()
        entries.pop("", None)
        entries[key] = bytes(memory)
        write_entries(path, entries)
    return f"Timing cache: {memory.nbytes:,} bytes kept for {key}."


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the folder's descriptor locked: it is there before the file is, and leaves no lock file in the engine."""
    import fcntl

    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
