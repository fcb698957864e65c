"""Progress in a notebook: one output that changes in place, and a plain line where there is no notebook."""

from __future__ import annotations

import html
import sys
import time
from typing import TYPE_CHECKING, Any

from ..progress import ProgressEvent, ProgressSink
from ..progress_text import text_from_event

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

# Each update is a message to the browser; five a second look alive and cost nothing.
_REDRAW_S = 0.2
_SHOWN_AFTER_S = 1.0
_SPARSE_S = 10.0


class ProgressView:
    """Receives progress events and shows them once the work has taken a second."""

    def __init__(self, shell: InteractiveShell):
        # In a rank of a world, progress goes to the notebook that the rank works for.
        self._publish: ProgressSink | None = getattr(shell, "trt_rank_progress", None)
        self._in_place = hasattr(shell, "kernel")
        self._started = time.monotonic()
        self._last = float("-inf")
        self._handle: Any = None
        self._done: list[str] = []

    def __call__(self, event: ProgressEvent) -> None:
        if self._publish is not None:
            self._publish(event)
            return
        now = time.monotonic()
        if event.state != "running" and event.elapsed_s >= _SHOWN_AFTER_S:
            self._done.append(text_from_event(event))
        if now - self._started < _SHOWN_AFTER_S:
            return
        if self._in_place:
            if now - self._last >= _REDRAW_S or event.state == "failed":
                self._last = now
                self._show(_Lines([*self._done[-12:], *_current(event)]))
        elif now - self._last >= _SPARSE_S or (event.state != "running" and event.elapsed_s >= _SHOWN_AFTER_S):
            self._last = now
            sys.stdout.write(text_from_event(event) + "\n")
            sys.stdout.flush()

    def close(self) -> None:
        """Leave the phases that took over a second, with their times."""
        if self._handle is not None:
            self._show(_Lines(self._done[-12:]))

    def _show(self, lines: _Lines) -> None:
        if self._handle is None:
            from IPython.display import display

            self._handle = display(lines, display_id=True)
        else:
            self._handle.update(lines)


def _current(event: ProgressEvent) -> list[str]:
    return [text_from_event(event)] if event.state == "running" else []


class _Lines:
    """Some lines of text that show the same in a browser and in a console."""

    def __init__(self, lines: list[str]):
        self._lines = lines

    def __repr__(self) -> str:
        return "\n".join(self._lines)

    def _repr_html_(self) -> str:
        text = html.escape("\n".join(self._lines))
        return f'<pre style="margin:0;opacity:0.75">{text}</pre>'
