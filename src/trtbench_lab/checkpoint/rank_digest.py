"""The digest of a rank's file, found without torch: a build that only verifies a checkpoint starts 2 s earlier."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .safetensors_file import SafetensorsFile


def digest_of_rank_file(path: Path) -> str:
    """Return the digest that `RankFile.finish` gives for this content: of the header and of each tensor's digest.

    Raises
    ------
    CheckpointError
        When the file is not whole.
    """
    import xxhash

    with SafetensorsFile(path) as file, open(path, "rb") as handle:
        first = min((place.offset for place in file.locations.values()), default=path.stat().st_size)
        header = handle.read(first)
        digests = []
        for name in file:  # in the order of their bytes
            digest, raw = xxhash.xxh3_128(), file.raw(name)
            for start in range(0, len(raw), 1 << 22):
                digest.update(raw[start : start + (1 << 22)])
            digests.append(digest.digest())
            del raw
            file.release(name)
    return combined_digest(header, digests)


def combined_digest(header: bytes, digests: Iterable[bytes]) -> str:
    """Return one digest for a header's bytes and the digests of the tensors behind it, in the order of their bytes."""
    import xxhash

    state = xxhash.xxh3_128(header)
    for digest in digests:
        state.update(digest)
    return f"xxh3_128_by_tensor:{state.hexdigest()}"
