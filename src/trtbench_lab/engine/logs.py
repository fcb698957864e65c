"""The log of a build: native output cut into lines, each with a severity, the newest kept for display."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import IO

SEVERITIES = ("debug", "info", "warning", "error")

_TAIL_LINES = 2000
_FILE_BYTES = 16 << 20  # a library that floods the log must not fill the disk
_LINE_CHARS = 4000

_LETTERS = {"V": "debug", "D": "debug", "I": "info", "W": "warning", "E": "error", "F": "error"}
_WORDS = {"DEBUG": "debug", "INFO": "info", "WARNING": "warning", "WARN": "warning", "ERROR": "error",
          "CRITICAL": "error", "FATAL": "error"}  # fmt: skip
_LETTER_FORMS = (
    re.compile(r"\[([VIWEF]):\w[\w.-]*"),  # ONNX Runtime: 2026-01-31 12:00:00.1 [W:onnxruntime:, graph.cc:1 F] …
    re.compile(r"\[TRT\]\s*\[([VIWEF])\]"),  # TensorRT: [01/31/2026-12:00:00] [TRT] [W] …
    re.compile(r"^\[?([VIWEF])\d{4} \d\d:\d\d"),  # glog and c10: W0131 12:00:00 …
)
_WORD_FORM = re.compile(r"^(?:\[[^\]]*\]\s*|\S+ \S+ )?\[?(DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL|FATAL)\]?[:\s|]")
_PYTHON_WARNING = re.compile(r"\b\w*Warning: ")
_ERROR_START = re.compile(
    r"^(Traceback \(most recent call last\)|Fatal Python error|terminate called|Segmentation fault"
    r"|[\w.]*(Error|Exception)\b[^:]*:)"
)
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class LogLine:
    """One line of a build's log: seconds since the build began, severity, text, and the rank where it is known."""

    elapsed_s: float
    severity: str
    text: str
    rank: int | None = None

    def __str__(self) -> str:
        who = f" rank {self.rank}" if self.rank is not None else ""
        return f"[{self.elapsed_s:9.3f} s]{who} {self.severity}: {self.text}"


class LineClassifier:
    """Gives each line of one stream its severity; keeps in mind that it is inside a traceback."""

    def __init__(self) -> None:
        self._in_traceback = False

    def severity(self, line: str) -> str:
        """Return the severity of the next line of this stream."""
        if self._in_traceback:
            # A traceback ends with its first line that is not indented: the exception itself.
            self._in_traceback = line.startswith((" ", "\t")) or not line
            return "error"
        for form in _LETTER_FORMS:
            if found := form.search(line):
                return _LETTERS[found.group(1)]
        if found := _WORD_FORM.match(line):
            return _WORDS[found.group(1)]
        if _ERROR_START.match(line):
            self._in_traceback = line.startswith(("Traceback", "Fatal Python error"))
            return "error"
        return "warning" if _PYTHON_WARNING.search(line) else "info"


class LineCutter:
    """Cuts a byte stream into clean text lines; a progress bar's carriage returns end lines too.

    Lines beyond `limit_chars` are cut short, and a stream without line ends is cut at 64 KiB; None holds it all.
    """

    def __init__(self, limit_chars: int | None = _LINE_CHARS) -> None:
        self._limit_chars = limit_chars
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that `data` completes."""
        *lines, self._rest = re.split(rb"\r\n|\n|\r(?!$)", self._rest + data)
        if self._limit_chars is not None and len(self._rest) > 1 << 16:
            lines.append(self._rest)
            self._rest = b""
        return [text for text in map(self._clean, lines) if text]

    def finish(self) -> list[str]:
        """Return the unfinished last line, if any."""
        text, self._rest = self._clean(self._rest), b""
        return [text] if text else []

    def _clean(self, raw: bytes) -> str:
        text = _ANSI.sub("", raw.decode("utf-8", errors="replace")).rstrip()
        if self._limit_chars is None or len(text) <= self._limit_chars:
            return text
        return text[: self._limit_chars] + " …"


class BuildLog:
    """Keeps the newest lines in memory and, once `write_to` was called, writes every line to a file."""

    def __init__(self) -> None:
        self._tail: deque[LogLine] = deque(maxlen=_TAIL_LINES)
        self._file: IO[str] | None = None
        self._room_bytes = _FILE_BYTES
        self.counts = dict.fromkeys(SEVERITIES, 0)

    def add(self, line: LogLine) -> None:
        """Append a line."""
        self._tail.append(line)
        self.counts[line.severity] += 1
        self._write(line)

    def tail(self, count: int = 20) -> list[LogLine]:
        """Return the newest `count` lines, oldest first (at most the last 2000 are kept)."""
        return list(self._tail)[-count:] if count > 0 else []

    def write_to(self, handle: IO[str]) -> None:
        """Write what is kept so far, and every later line, to `handle`, up to 16 MiB."""
        self._file = handle
        for line in self._tail:
            self._write(line)

    def close_file(self) -> None:
        """Close the file; the tail stays, and later lines go there only."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, line: LogLine) -> None:
        if self._file is None or self._room_bytes <= 0:
            return
        text = f"{line}\n"
        self._room_bytes -= len(text)
        self._file.write(text if self._room_bytes > 0 else "(further lines are not kept)\n")
