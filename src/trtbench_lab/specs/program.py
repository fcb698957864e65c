"""The front of a pasted line: ``mpirun -n 8 python3 build.py`` says nothing that a verb needs."""

from __future__ import annotations

import re
from typing import Any

_PYTHON = re.compile(r"(.*/)?python[\d.]*\Z")
_SCRIPT = re.compile(r"[\w./-]+\.py\Z")
_MPI = re.compile(r"(.*/)?(mpirun|mpiexec|srun)\Z")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*=")
_PROGRAMS = frozenset({"trtllm-build", "trtllm-bench", "gptSessionBenchmark", "gptManagerBenchmark", "trtbench"})
_HUB_PROGRAMS = frozenset({"huggingface-cli", "hf"})


def without_program(tokens: list[Any]) -> tuple[list[Any], list[str]]:
    """Return `tokens` without the program that a pasted line begins with, and a note where that loses something.

    Only whole known beginnings are taken away: a launcher, Python and a script, or one of the field's programs.
    Variables that stand before the program stay for the verb to read.
    """
    words = [token for token in tokens if not (isinstance(token, str) and token.strip() == "\\")]
    front = 0
    while front < len(words) and isinstance(words[front], str) and _VARIABLE.match(words[front]):
        front += 1
    end, notes = _past_launcher(words, front)
    past = _past_program(words, end)
    if past is None:
        return words, []
    return words[:front] + words[past:], notes


def _past_launcher(words: list[Any], start: int) -> tuple[int, list[str]]:
    if start >= len(words) or not isinstance(words[start], str) or not _MPI.match(words[start]):
        return start, []
    position = start + 1
    while position < len(words) and isinstance(words[position], str) and words[position].startswith("-"):
        takes_value = words[position] in ("-n", "-np", "--np", "-N", "--ntasks")
        position += 2 if takes_value else 1
    launcher = " ".join(str(word) for word in words[start:position])
    return position, [f"{launcher} does nothing here: this line runs in one process."]


def _past_program(words: list[Any], start: int) -> int | None:
    """Return the position after a program, None where no known program stands."""
    rest = [word if isinstance(word, str) else "" for word in words[start:]]
    if not rest:
        return None
    first = rest[0]
    if _PYTHON.match(first):
        if rest[1:3] == ["-m", "trtbench_lab"]:
            return start + min(4, len(rest))
        return start + 2 if len(rest) > 1 and _SCRIPT.match(rest[1]) else None
    if _SCRIPT.match(first) and "=" not in first:
        return start + 1
    program = first.rsplit("/", 1)[-1]
    if program in _HUB_PROGRAMS:
        return start + (2 if rest[1:2] == ["download"] else 1)
    if program == "trtbench":
        return start + min(2, len(rest))
    return start + 1 if program in _PROGRAMS else None
