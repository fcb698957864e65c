"""One magic a verb, all of one making: the line becomes a request, the workbench does the work, the result is shown."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class, no_var_expand

from ..errors import TrtbenchError
from ..progress import no_progress
from ..specs.command_line import VERBS, parse, request_type
from ..specs.flags import flag_table
from ..specs.help_text import help_text
from .defaults import Settings
from .face import FACE, Line, read_face
from .progress_view import ProgressView
from .words import split_line

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_RED, _PLAIN = "\x1b[31m", "\x1b[0m"
_WITH_CELL = ("mpi",)
LAST_ERROR = "_trt_error"
"""The notebook's variable that keeps the last error, with its details."""


class TrtBench(Magics, Settings):
    """Magics of the workbench; ``%config TrtBench.backend = 'torch'`` sets a default for all later lines."""

    def __init__(self, shell: InteractiveShell):
        super().__init__(shell=shell)  # takes the shell's configuration along, so `c.TrtBench.backend` works
        self.last_error: TrtbenchError | None = None

    def run_line(self, verb: str, line: str, cell: str | None = None) -> Any:
        """Do what a magic's line asks, with the cell below it if there is one, and return the result."""
        try:
            return self._run_line(verb, line, cell)
        except TrtbenchError as error:
            self._keep(error)
            raise

    def _run_line(self, verb: str, line: str, cell: str | None) -> Any:
        line = line.rstrip()
        silent = line.endswith(";")
        table = flag_table(request_type(verb))
        face = read_face(split_line(line.removesuffix(";"), self.shell, table), table)
        if face.wants_help:
            _write(help_text(verb, f"%trt_{verb}", FACE))
            return None
        spec, notes = parse(verb, face.words, self.option_defaults())
        if self.show_notes and not face.quiet:
            for note in (*face.notes, *notes):
                _write(f"note: {note}")
        result = self._call(verb, spec, face) if cell is None else self._call_on_ranks(spec, cell, face)
        self.last_error = None
        if face.store is not None:
            self.shell.user_ns[face.store] = result
        return None if silent else result

    def _call(self, verb: str, spec: Any, face: Line) -> Any:
        from .. import workbench

        quiet = face.quiet or not self.show_progress
        view = ProgressView(self.shell)
        keywords: dict[str, Any] = {"progress": no_progress if quiet else view}
        streams = bool(getattr(spec, "streaming", False))
        if streams:
            keywords["on_text"] = _write_piece
        try:
            result = getattr(workbench, verb)(spec, **keywords)
        finally:
            view.close()
        if streams:
            _write("")
        return result

    def _call_on_ranks(self, spec: Any, cell: str, face: Line) -> Any:
        from .rank_cell import run_rank_cell

        quiet = face.quiet or not self.show_progress
        view = ProgressView(self.shell)
        try:
            sink = no_progress if quiet else view
            return run_rank_cell(spec, cell, self.shell, name=face.store, progress=sink, quiet=quiet)
        finally:
            view.close()

    def _keep(self, error: TrtbenchError) -> None:
        """Remember an error, and let the notebook show its sentences instead of a traceback."""
        self.last_error = error
        self.shell.user_ns[LAST_ERROR] = error
        lines = str(error).splitlines()
        if error.details:
            lines.append(f"  ({LAST_ERROR}.details shows more)")
        if hasattr(error, "_render_traceback_"):
            return
        # IPython asks an exception for its own rendering before it makes a traceback.
        error._render_traceback_ = lambda: [f"{_RED}{text}{_PLAIN}" for text in lines]  # type: ignore[attr-defined]


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")


def _write_piece(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _magic(verb: str) -> Callable[..., Any]:
    def magic(self: TrtBench, line: str, cell: str | None = None) -> Any:
        return self.run_line(verb, line, cell)

    magic.__name__ = magic.__qualname__ = f"trt_{verb}"
    magic.__doc__ = help_text(verb, f"%trt_{verb}", FACE)
    kind = line_cell_magic if verb in _WITH_CELL else line_magic
    return kind(no_var_expand(magic))  # type: ignore[no-any-return]


for _verb in VERBS:
    setattr(TrtBench, f"trt_{_verb}", _magic(_verb))
TrtBench = magics_class(TrtBench)  # type: ignore[misc]
