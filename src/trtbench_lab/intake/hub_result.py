"""What a download leaves: a whole folder, its pinned commit, and what was transferred or reused."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class DownloadedFile:
    """One file of a download; `reused` when it was there already, whole and of the right content."""

    name: str
    bytes: int
    reused: bool


@dataclass(frozen=True)
class DownloadResult:
    """A model folder that is whole.

    Attributes
    ----------
    directory
        The folder.
    repo_id, revision, commit, endpoint
        What was asked for, where, and the commit that `revision` meant: with it the same files come again.
    files
        Every selected file.
    transferred_bytes, reused_bytes
        Bytes that came over the network, and bytes that were there already (whole files and continued ones).
    elapsed_s
        Wall time.
    notes
        What a person should know, for example that the hub was out of reach and an earlier download is used.
    """

    directory: Path
    repo_id: str
    revision: str
    commit: str
    endpoint: str
    files: tuple[DownloadedFile, ...]
    transferred_bytes: int
    reused_bytes: int
    elapsed_s: float
    notes: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.bytes for file in self.files)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {**asdict(self), "directory": str(self.directory), "total_bytes": self.total_bytes}

    def __repr__(self) -> str:
        lines = [
            f"{self.repo_id} at {self.revision} (commit {self.commit[:12]}) in {self.directory}",
            f"{len(self.files)} files, {format_bytes(self.total_bytes)}: {format_bytes(self.transferred_bytes)} "
            f"transferred, {format_bytes(self.reused_bytes)} already there, {self.elapsed_s:.1f} s",
            *self.notes,
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td style='text-align:left'>{escape(file.name)}</td><td>{format_bytes(file.bytes)}</td>"
            f"<td>{'already there' if file.reused else 'fetched'}</td></tr>"
            for file in self.files
        )
        head = "<br>".join(escape(line) for line in repr(self).splitlines())
        return f"<p>{head}</p><table><tr><th>file</th><th>size</th><th></th></tr>{rows}</table>"


def format_bytes(count: int) -> str:
    """Return a byte count in decimal units, for example ``"1.5 GB"``."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} TB"
