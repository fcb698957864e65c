"""The shell: ``trtbench VERB [options]`` → one request → one call → its result."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import IO, Any

from ._version import __version__
from .errors import SpecError, TrtbenchError
from .progress import ProgressEvent, no_progress
from .progress_text import text_from_event
from .ranks import control, launched
from .results.fitted import fitted_to
from .specs.command_line import parse, request_type
from .specs.help_text import FaceOption, help_text, overview

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
FACE = (
    FaceOption(("--json",), "", "Print the result as JSON."),
    FaceOption(("--quiet", "-q"), "", "Show no progress and no notes."),
    FaceOption(("--details",), "", "Show what lies behind an error: log tail, native message."),
    FaceOption(("--help", "-h"), "", "Show this help."),
)
_ENDING_S = 5.0
_SPARSE_S = 10.0
_REDRAW_S = 0.2
_MAGIC = re.compile(r"(?<!%)%trt_(?!mpi\b)(\w+)")  # ranks live in notebooks only, so %trt_mpi stays as it is
_NARROWEST = 40  # columns below which nothing is broken further


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; return its exit code: 0 done, 1 failed or faults found, 2 not understood, 130 stopped."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _main(words) if launched().size == 1 else _as_rank(words)
        sys.stdout.flush()  # a broken pipe shows here rather than while Python shuts down
        return code
    except KeyboardInterrupt:
        if launched().rank == 0:
            _tell("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has left (`trtbench history | head`); nobody is there to be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _as_rank(words: list[str]) -> int:
    """Run a line as one rank of several: rank 0 speaks, and a rank that fails by itself says why and ends them all."""
    if launched().rank != 0:
        return _follow(words)
    code = _main(words)
    sys.stdout.flush()
    world = control() if control.cache_info().currsize else None
    if world is not None and not world.confirmed(_ENDING_S):
        world.abort(code or FAILED)  # a rank waits in a step that rank 0 has left
    return code


def _follow(words: list[str]) -> int:
    """Take part in a line without a word: whatever rank 0 finds wrong it says; this rank says what only it finds."""
    from . import workbench

    verb, rest = (words or ["--help"])[0], words[1:]
    flags, rest = _face_flags(rest)
    if verb.startswith("-") or verb == "help" or flags & {"--help", "-h"}:
        return OK
    code = OK
    try:
        request_type(verb)
        spec, _ = parse(verb, rest)
        keywords: dict[str, Any] = {"progress": no_progress}
        code = int(getattr(getattr(workbench, verb)(spec, **keywords), "exit_code", OK))
    except Exception as error:
        code = USAGE if isinstance(error, SpecError) else FAILED
        if control.cache_info().currsize and not getattr(error, "led", False) and not getattr(error, "agreed", False):
            _tell(f"rank {launched().rank}: error: {error}")
            if "--details" in flags:
                _tell(traceback.format_exc())
            world = control()
            if world is not None:
                world.abort(FAILED)
    world = control() if control.cache_info().currsize else None
    if world is not None:
        world.confirm()
    return code


def _main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview(columns=_columns_of(sys.stdout)))
        return OK if words else USAGE
    if words[0] == "--version":
        print(f"trtbench-lab {__version__}")
        return OK
    verb, rest = words[0], words[1:]
    flags, rest = _face_flags(rest)
    try:
        request_type(verb)
        if "--help" in flags or "-h" in flags:
            print(help_text(verb, f"trtbench {verb}", FACE, columns=_columns_of(sys.stdout)))
            return OK
        spec, notes = parse(verb, rest)
        if verb == "mpi" and spec.action in ("start", "restart") and not spec.dry_run:
            raise SpecError(
                "Ranks live as long as the notebook or script that starts them, and this command ends at once.",
                where=f"trtbench mpi {spec.action}",
                remedy="Use %trt_mpi in a notebook, trtbench_lab.distributed.World in a script, or start a command on "
                "every rank: mpirun -n 2 trtbench run …",
            )
    except SpecError as error:
        return _failed(error, flags, USAGE)
    quiet = bool(flags & {"--quiet", "-q"})
    if not quiet:
        for note in notes:
            _tell(f"note: {note}")
    return _run(verb, spec, flags, quiet)


def _run(verb: str, spec: Any, flags: set[str], quiet: bool) -> int:
    from . import workbench

    show = ProgressLine(sys.stderr)
    keywords: dict[str, Any] = {"progress": no_progress if quiet else show}
    streams = bool(getattr(spec, "streaming", False)) and "--json" not in flags
    if streams:
        keywords["on_text"] = _writer(sys.stdout)
    try:
        result = getattr(workbench, verb)(spec, **keywords)
    except TrtbenchError as error:
        show.clear()
        return _failed(error, flags, FAILED)
    except (KeyboardInterrupt, BrokenPipeError):
        show.clear()
        raise
    except Exception as error:  # a fault of this program; it still owes a sentence
        show.clear()
        _tell(f"error: something went wrong inside trtbench: {type(error).__name__}: {error}")
        _tell(
            traceback.format_exc()
            if "--details" in flags
            else "  → Run it again with --details and report what it shows."
        )
        return FAILED
    show.clear()
    if streams:
        print()
    print(_shown(result, as_json="--json" in flags))
    return int(getattr(result, "exit_code", OK))


def _face_flags(words: list[str]) -> tuple[set[str], list[str]]:
    """Take the shell's own flags out of a line; words after ``--`` are texts."""
    own = {flag for item in FACE for flag in item.flags}
    end = words.index("--") if "--" in words else len(words)
    taken = {word for word in words[:end] if word in own}
    return taken, [word for word in words[:end] if word not in own] + words[end:]


def _shown(result: Any, *, as_json: bool) -> str:
    if as_json:
        return json.dumps(_data(result), indent=2, ensure_ascii=False, default=str)
    with fitted_to(_columns_of(sys.stdout)):
        return _for_shells(repr(result))


def _for_shells(text: str) -> str:
    """Return a text with the lines that it advises as a shell takes them: ``%trt_history`` is ``trtbench history``."""
    return _MAGIC.sub(r"trtbench \1", text)


def _data(result: Any) -> Any:
    """Return a result as JSON-ready data: its own dictionary, its fields, or its rows."""
    if hasattr(result, "to_dict"):
        return result.to_dict()
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return dataclasses.asdict(result)
    if isinstance(result, Sequence) and not isinstance(result, str):
        return [_data(item) for item in result]
    return result if isinstance(result, str | int | float | bool | None) else repr(result)


def _failed(error: TrtbenchError, flags: set[str], code: int) -> int:
    _tell(_for_shells(f"error: {error}"))
    if error.details:
        _tell(error.details if "--details" in flags else "  (--details shows more)")
    return code


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _writer(stream: IO[str]) -> Callable[[str], None]:
    def write(text: str) -> None:
        stream.write(text)
        stream.flush()

    return write


class ProgressLine:
    """Progress on a stream: one line that changes in place on a terminal, a line now and then in a log file.

    Nothing is shown of work that takes less than a second.
    """

    def __init__(self, stream: IO[str]):
        self._stream = stream
        self._in_place = stream.isatty()
        self._width = 0
        self._last = float("-inf")
        self._phase: str | None = None
        self._text = ""

    def __call__(self, event: ProgressEvent) -> None:
        now = time.monotonic()
        if self._in_place:
            if event.elapsed_s >= 1.0 and (now - self._last >= _REDRAW_S or event.state != "running"):
                self._last = now
                self._redraw(text_from_event(event))
            return
        long_enough = event.elapsed_s >= 1.0 and (event.state != "running" or event.elapsed_s >= _SPARSE_S)
        if long_enough and (now - self._last >= _SPARSE_S or event.state != "running" or event.phase != self._phase):
            self._last, self._phase = now, event.phase
            text = text_from_event(event)
            if text != self._text:  # a last "running" and the "done" after it often say the same
                print(text, file=self._stream, flush=True)
            self._text = text

    def clear(self) -> None:
        """Take the line away, so that what follows begins on an empty one."""
        if self._in_place and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
            self._width = 0

    def _redraw(self, text: str) -> None:
        text = text[: (_columns_of(self._stream) or 80) - 1]
        self._stream.write("\r" + text.ljust(self._width))
        self._stream.flush()
        self._width = len(text)


def _columns_of(stream: IO[str]) -> int | None:
    """Return the columns of the terminal behind a stream, or COLUMNS where it is set; None for files and pipes."""
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told) > 0:
        return max(_NARROWEST, int(told))
    try:
        columns = os.get_terminal_size(stream.fileno()).columns if stream.isatty() else 0
    except (OSError, ValueError, AttributeError):
        return None
    return max(_NARROWEST, columns) if columns else None
