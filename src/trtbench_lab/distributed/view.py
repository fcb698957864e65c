"""What shows a cell while it runs: the interface, and one for consoles and scripts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TextIO

from ..progress import ProgressEvent
from ..progress_text import text_from_event


class CellView(Protocol):
    """Receives what the ranks do, in the thread that follows the cell."""

    def on_text(self, rank: int, stream: str, text: str) -> None:
        """A rank has printed to ``"stdout"`` or ``"stderr"``."""

    def on_display(self, rank: int, content: Mapping[str, Any]) -> None:
        """A rank shows something: a message with ``data`` by MIME type, and ``metadata``."""

    def on_progress(self, rank: int, event: ProgressEvent) -> None:
        """A rank has come further."""

    def on_end(self, rank: int, state: str, seconds: float) -> None:
        """A rank has ended (``"idle"``, ``"failed"``) or was given up (``"stuck"``)."""

    def tick(self) -> None:
        """Time has passed."""

    def close(self) -> None:
        """The cell is over."""


class NoView:
    """Shows nothing."""

    def on_text(self, rank: int, stream: str, text: str) -> None: ...

    def on_display(self, rank: int, content: Mapping[str, Any]) -> None: ...

    def on_progress(self, rank: int, event: ProgressEvent) -> None: ...

    def on_end(self, rank: int, state: str, seconds: float) -> None: ...

    def tick(self) -> None: ...

    def close(self) -> None: ...


class LineView(NoView):
    """Whole lines as they come, each with its rank: ``[1] loss 2.1``.

    Parameters
    ----------
    output
        Where the lines go.
    only_rank
        Show this rank alone; None for all.
    """

    def __init__(self, output: TextIO, only_rank: int | None = None) -> None:
        self._output, self._only = output, only_rank
        self._open: dict[int, str] = {}

    def on_text(self, rank: int, stream: str, text: str) -> None:
        if self._only not in (None, rank):
            return
        *lines, self._open[rank] = (self._open.get(rank, "") + text).split("\n")
        for line in lines:
            self._write(rank, line)

    def on_display(self, rank: int, content: Mapping[str, Any]) -> None:
        text = content.get("data", {}).get("text/plain")
        if text and self._only in (None, rank):
            for line in str(text).splitlines():
                self._write(rank, line)

    def on_progress(self, rank: int, event: ProgressEvent) -> None:
        if event.state != "running" and event.elapsed_s >= 1.0 and self._only in (None, rank):
            self._write(rank, text_from_event(event))

    def close(self) -> None:
        for rank, line in sorted(self._open.items()):
            if line:
                self._write(rank, line)
        self._open.clear()

    def _write(self, rank: int, line: str) -> None:
        self._output.write(f"[{rank}] {line}\n")
        self._output.flush()
