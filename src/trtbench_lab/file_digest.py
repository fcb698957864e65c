"""Digests of large files by chunks: several threads verify one file, or whoever reads a chunk for another purpose.

XXH3 runs at 20-40 GB/s a thread and copying from the page cache at 5-10: one thread takes 3.7 s for an engine of 16 GB,
where sixteen take half a second. A digest of a whole file in one go cannot be shared out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import local

from .errors import EngineError
from .storage import digest_of_file, storage_error

CHUNK_BYTES = 16 << 20
_KIND = "xxh3_128_by_16MiB"
# Read and hashed piece by piece: a buffer that stays in the processor's cache.
_PIECE_BYTES = 1 << 20
_MOST_THREADS = 16


def reading_threads() -> int:
    """Return how many threads read a file side by side: this process's processors, sixteen at most."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return max(1, min(_MOST_THREADS, count))


def digest_by_chunk(path: Path | str) -> str:
    """Return ``"xxh3_128_by_16MiB:<hex>"`` of a file's content: a check against damage, not against an adversary.

    It is the XXH3 (128 bits) of the file's size (8 bytes, little-endian) followed by that of each 16 MiB in order.

    Raises
    ------
    StorageError
        When the file cannot be read.
    """
    import xxhash

    own = local()

    def digest_of(start: int) -> bytes:
        if not hasattr(own, "piece"):
            own.piece = memoryview(bytearray(_PIECE_BYTES))
        state = xxhash.xxh3_128()
        end = min(size, start + CHUNK_BYTES)
        while start < end and (count := os.preadv(descriptor, [own.piece[: end - start]], start)):
            state.update(own.piece[:count])
            start += count
        return state.digest()

    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            starts = range(0, size, CHUNK_BYTES)
            if len(starts) < 2:  # not worth a thread
                return joined_digest(size, [digest_of(start) for start in starts])
            with ThreadPoolExecutor(min(len(starts), reading_threads())) as pool:
                return joined_digest(size, pool.map(digest_of, starts))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise storage_error(error, path, "read the file") from error


def joined_digest(size: int, chunks: Iterable[bytes]) -> str:
    """Return the digest of a file of `size` bytes from its chunks' XXH3 digests (16 bytes each), in order."""
    import xxhash

    state = xxhash.xxh3_128(size.to_bytes(8, "little"))
    for digest in chunks:
        state.update(digest)
    return f"{_KIND}:{state.hexdigest()}"


def is_by_chunk(digest: str) -> bool:
    """Whether a recorded digest is of this kind."""
    return digest.startswith(f"{_KIND}:")


def digest_as_recorded(path: Path | str, recorded: str) -> str:
    """Return the file's digest in the kind of `recorded`: by chunks, or of the whole as older folders have it."""
    return digest_by_chunk(path) if is_by_chunk(recorded) else digest_of_file(path)


def refuse_changed(path: Path, found: str, recorded: str) -> None:
    """Raise `EngineError` for a file of an engine whose digest is not the one recorded when it was built."""
    if found != recorded:
        raise EngineError(
            f"The file {path.name!r} has changed since it was built: its digest is {found}, and {recorded} was "
            "recorded.",
            where=str(path.parent),
            remedy="Build the engine again, or copy the folder again from where it is whole.",
        )
