"""What a download wrote into a folder: ``trtbench_download.json`` with repository, pinned commit, files and digests."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import IntakeError
from ..storage import write_json

RECORD_NAME = "trtbench_download.json"
_FORMAT_VERSION = 1


@dataclass
class RecordedFile:
    """A file that is whole: its size and the digest the hub gives it (``sha256:…``, ``git-sha1:…`` or None)."""

    bytes: int
    digest: str | None


@dataclass
class DownloadRecord:
    """State of one download, rewritten after each finished file.

    Attributes
    ----------
    repo_id, revision, commit, endpoint
        What was asked for, and the commit that `revision` meant then.
    include, exclude
        The patterns of the selection; None for the default selection.
    complete
        Whether every selected file is whole.
    wanted
        Names of all selected files.
    files
        The whole files.
    downloaded_at
        ISO time of the last change, UTC.
    """

    repo_id: str
    revision: str
    commit: str
    endpoint: str
    include: list[str] | None = None
    exclude: list[str] | None = None
    complete: bool = False
    wanted: list[str] = field(default_factory=list)
    files: dict[str, RecordedFile] = field(default_factory=dict)
    downloaded_at: str = ""

    def write(self, directory: Path) -> None:
        """Write the record into `directory`, atomically."""
        files = {name: {"bytes": file.bytes, "digest": file.digest} for name, file in sorted(self.files.items())}
        write_json(directory / RECORD_NAME, {"format_version": _FORMAT_VERSION, **self.__dict__, "files": files})

    def same_selection(self, include: list[str] | None, exclude: list[str] | None) -> bool:
        """Whether this download selected its files by the same patterns."""
        return self.include == include and self.exclude == exclude


def read_record(directory: Path) -> DownloadRecord | None:
    """Return the record in `directory`; None when there is none or it is not one of ours (it is then written anew)."""
    try:
        payload: Any = json.loads((directory / RECORD_NAME).read_bytes())
        if payload.pop("format_version") != _FORMAT_VERSION:
            return None
        files = {name: RecordedFile(int(file["bytes"]), file["digest"]) for name, file in payload.pop("files").items()}
        return DownloadRecord(files=files, **payload)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def refuse_unfinished(directory: Path) -> None:
    """Raise `IntakeError` when a download into `directory` began and has not finished."""
    record = read_record(directory)
    if record is None or record.complete:
        return
    missing = [name for name in record.wanted if name not in record.files]
    shown = ", ".join(missing[:4]) + (", …" if len(missing) > 4 else "")
    raise IntakeError(
        f"The download of {record.repo_id} into this folder is unfinished: "
        f"{len(missing)} of {len(record.wanted)} files are missing ({shown}).",
        where=str(directory),
        remedy=f"Run `download {record.repo_id}` into this folder again: it continues where it stopped.",
    )
