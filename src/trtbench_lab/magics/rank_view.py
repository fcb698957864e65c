"""A cell on several ranks in a notebook: one output that folds what each rank prints, and grows while they print."""

from __future__ import annotations

import html
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..progress import ProgressEvent
from ..progress_text import text_from_event

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_REDRAW_S = 0.2
_OPEN_RANKS = 4
"""Of a world of so many ranks all are shown unfolded; of a larger one the first, and those that failed."""
_MOST_CHARACTERS = 100_000
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_MARKS = {"busy": "…", "idle": "✓", "failed": "✗", "stuck": "✗"}


class RankView:
    """See `distributed.view.CellView`.

    Parameters
    ----------
    shell
        The notebook's.
    world_size
        Ranks of the world.
    only_rank
        Show what this rank prints and no other; None for all.
    quiet
        Leave progress out.
    """

    def __init__(self, shell: InteractiveShell, world_size: int, *, only_rank: int | None = None, quiet: bool = False):
        self._in_place = hasattr(shell, "kernel")
        self._world_size, self._only, self._quiet = world_size, only_rank, quiet
        self._texts: dict[int, str] = {}
        self._open_lines: dict[int, str] = {}
        self._states: dict[int, tuple[str, float]] = {}
        self._progress: dict[int, ProgressEvent] = {}
        self._displays: list[tuple[int, Mapping[str, Any]]] = []
        self._handle: Any = None
        self._changed, self._last = False, float("-inf")

    def show_at_once(self, ranks: Sequence[int]) -> None:
        """Take the place below the present cell, which the notebook leaves before the ranks have said anything."""
        if self._in_place:
            self._texts = {rank: "" for rank in ranks if self._only in (None, rank)}
            self._show()

    # ---- what the cell tells -------------------------------------------------------------------------------------

    def on_text(self, rank: int, stream: str, text: str) -> None:
        if self._only not in (None, rank):
            return
        if not self._in_place:
            self._print(rank, text)
            return
        self._texts[rank] = _as_a_terminal(self._texts.get(rank, "") + text)[-_MOST_CHARACTERS:]
        self._changed = True

    def on_display(self, rank: int, content: Mapping[str, Any]) -> None:
        if self._only not in (None, rank):
            return
        data = content.get("data", {})
        if set(data) == {"text/plain"}:
            self.on_text(rank, "stdout", f"{data['text/plain']}\n")
        elif self._in_place:
            self._displays.append((rank, content))
        else:
            self._print(rank, f"{data.get('text/plain', '')}\n")

    def on_progress(self, rank: int, event: ProgressEvent) -> None:
        if not self._quiet:
            self._progress[rank] = event
            self._changed = True

    def on_end(self, rank: int, state: str, seconds: float) -> None:
        self._states[rank] = (state, seconds)
        self._changed = self._changed or rank in self._texts

    def tick(self) -> None:
        now = time.monotonic()
        if self._in_place and self._changed and now - self._last >= _REDRAW_S:
            self._last, self._changed = now, False
            self._show()

    def close(self) -> None:
        if not self._in_place:
            for rank, line in sorted(self._open_lines.items()):
                if line:
                    self._print(rank, "\n")
            return
        if self._texts or self._handle is not None:
            self._show()
        for ranks, content in _equal_ones_together(self._displays):
            self._publish(ranks, content)

    # ---- how it looks --------------------------------------------------------------------------------------------

    def _print(self, rank: int, text: str) -> None:
        *lines, self._open_lines[rank] = (self._open_lines.get(rank, "") + text).split("\n")
        for line in lines:
            sys.stdout.write(f"[{rank}] {line}\n")
        sys.stdout.flush()

    def _publish(self, ranks: list[int], content: Mapping[str, Any]) -> None:
        from IPython.display import publish_display_data

        from ..distributed.faults import ranks_in_words

        if self._world_size > 1 and self._only is None:
            words = ranks_in_words(ranks)
            publish_display_data({"text/plain": f"{words}:", "text/html": f"<b>{words}</b>"})
        publish_display_data(dict(content.get("data", {})), dict(content.get("metadata", {})))

    def _show(self) -> None:
        lines = progress_lines(self._progress)
        shown = _Folds(
            [(rank, text, *self._states.get(rank, ("busy", 0.0))) for rank, text in sorted(self._texts.items())],
            lines,
            everything_open=self._world_size <= _OPEN_RANKS,
        )
        if self._handle is None:
            from IPython.display import display

            self._handle = display(shown, display_id=True)
        else:
            self._handle.update(shown)


def progress_lines(events: Mapping[int, ProgressEvent]) -> list[str]:
    """Return progress over ranks: ranks in the same phase are one line, told by the one that is least far."""
    phases: dict[str, list[int]] = {}
    for rank, event in sorted(events.items()):
        phases.setdefault(event.phase, []).append(rank)
    lines = []
    for ranks in phases.values():
        slowest = min(ranks, key=lambda rank: (events[rank].state != "running", events[rank].done))
        event = events[slowest]
        if event.elapsed_s < 1.0 and event.state == "running":
            continue
        who = f"rank {ranks[0]}" if len(ranks) == 1 else f"{len(ranks)} ranks, the last is {slowest}"
        lines.append(f"{text_from_event(event)} ({who})")
    return lines


def _equal_ones_together(
    displays: list[tuple[int, Mapping[str, Any]]],
) -> list[tuple[list[int], Mapping[str, Any]]]:
    """Return what was shown, in the order of the ranks; the same from several ranks is there once."""
    together: list[tuple[list[int], Mapping[str, Any]]] = []
    for rank, content in sorted(displays, key=lambda item: item[0]):
        for ranks, shown in together:
            if rank not in ranks and shown.get("data") == content.get("data"):
                ranks.append(rank)
                break
        else:
            together.append(([rank], content))
    return together


def _as_a_terminal(text: str) -> str:
    """Return text in which a carriage return has gone back to the start of its line."""
    return re.sub(r"^[^\n]*\r(?=[^\n])", "", text, flags=re.MULTILINE) if "\r" in text else text


class _Folds:
    """What each rank printed, as foldable HTML and as plain text."""

    def __init__(self, ranks: list[tuple[int, str, str, float]], progress: list[str], *, everything_open: bool):
        self._ranks, self._progress, self._everything_open = ranks, progress, everything_open

    def __repr__(self) -> str:
        lines = list(self._progress)
        for rank, text, _, _ in self._ranks:
            lines += [f"[{rank}] {line}" for line in _ANSI.sub("", text).splitlines()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        progress = html.escape("\n".join(self._progress))
        parts = [f'<pre style="margin:0;opacity:0.75">{progress}</pre>'] if progress else []
        first = self._ranks[0][0] if self._ranks else 0
        for rank, text, state, seconds in self._ranks:
            is_open = self._everything_open or rank == first or state in ("failed", "stuck")
            last = next((line for line in reversed(_ANSI.sub("", text).splitlines()) if line.strip()), "")
            took = f" · {seconds:.2f} s" if state != "busy" else ""
            parts.append(
                f'<details{" open" if is_open else ""}><summary style="cursor:pointer">{_MARKS.get(state, "")} '
                f'rank {rank}{took} <span style="opacity:0.6">{html.escape(last[:100])}</span></summary>'
                f'<pre style="margin:0 0 0.5em 1.2em;white-space:pre-wrap">{html.escape(_ANSI.sub("", text))}</pre>'
                "</details>"
            )
        return "".join(parts)
