"""manifest.json beside a checkpoint's config.json: sizes and digests of its files. TensorRT-LLM does not look at it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import CheckpointError
from ..storage import digest_of_json, write_json

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """What the files of a checkpoint were when they were written.

    Attributes
    ----------
    files
        File name → ``{"bytes": int, "digest": str}``.
    source
        Folder the weights came from, as it was called then; None where they came from memory.
    """

    files: dict[str, dict[str, Any]]
    source: str | None = None

    @property
    def digest(self) -> str:
        """Digest of all content, for cache keys: independent of where and when it was written."""
        return digest_of_json({name: entry["digest"] for name, entry in self.files.items()})

    def write(self, directory: Path) -> None:
        """Write manifest.json, atomically."""
        payload = {"format": FORMAT, "written_by": f"trtbench-lab {__version__}", "source": self.source}
        write_json(directory / MANIFEST, {**payload, "files": self.files})


def read_manifest(directory: Path) -> Manifest | None:
    """Return the manifest of a checkpoint, None where there is none (other tools write none).

    Raises
    ------
    CheckpointError
        When it is damaged or of a later version.
    """
    path = directory / MANIFEST
    if not path.exists():
        return None
    payload = read_json(path)
    version = payload.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise CheckpointError(
            f"The checkpoint is of format {version}; this version reads up to {FORMAT}.",
            where=str(path),
            remedy="Update trtbench-lab, or convert the model again.",
        )
    files = payload.get("files")
    sound = isinstance(files, dict) and all(
        isinstance(entry, dict) and type(entry.get("bytes")) is int and isinstance(entry.get("digest"), str)
        for entry in files.values()
    )
    if version != FORMAT or not isinstance(files, dict) or not sound:
        raise CheckpointError(
            "The manifest is damaged.",
            where=str(path),
            remedy="Convert the model again; or delete manifest.json to open the checkpoint without its digests.",
        )
    source = payload.get("source")
    return Manifest(files, source if isinstance(source, str) else None)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a checkpoint's file.

    Raises
    ------
    CheckpointError
        When it is not readable, not JSON or not an object.
    """
    try:
        payload = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(
            f"Could not read the file: {reason}.", where=str(path), remedy="Check the path."
        ) from error
    except (ValueError, RecursionError) as error:  # bad UTF-8, bad JSON, numbers of absurd length, endless nesting
        raise CheckpointError(
            f"The file is not valid JSON ({str(error)[:120]}).", where=str(path), remedy="Convert the model again."
        ) from error
    if not isinstance(payload, dict):
        raise CheckpointError("The file is not a JSON object.", where=str(path), remedy="Convert the model again.")
    return payload
