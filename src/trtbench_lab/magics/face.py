"""The magics' own options, and the name under which a result is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..errors import SpecError
from ..specs.flags import FlagTable
from ..specs.help_text import FaceOption

FACE = (
    FaceOption(("-o", "--store"), "NAME", "Store the result in the notebook's variable NAME."),
    FaceOption(("--quiet",), "", "Show no progress and no notes."),
    FaceOption(("--help", "-h"), "", "Show this help."),
)


class Line(NamedTuple):
    """A magic's line after its own options are taken out."""

    words: list[Any]
    store: str | None
    wants_help: bool
    quiet: bool
    notes: list[str]


def read_face(words: Sequence[Any], table: FlagTable) -> Line:
    """Take the magic's own options out of a line.

    ``-o`` is also hf_gpt_convert.py's output folder. There it means the folder when the line has that tool's ``-i``, or
    when what follows is no Python name; otherwise it stores the result, and says so.

    Raises
    ------
    SpecError
        When the name to store under is missing or no Python name.
    """
    left: list[Any] = []
    notes: list[str] = []
    store, wants_help, quiet = None, False, False
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not isinstance(word, str):
            left.append(word)
        elif word == "--":
            left += [word, *rest]
            break
        elif word in ("--help", "-h"):
            wants_help = True
        elif word == "--quiet" and word not in table.flags:
            quiet = True
        elif word == "--store" or (word == "-o" and not _is_folder(words, rest, table)):
            store = _name(word, rest)
            if word == "-o" and "-o" in table.flags:
                notes.append(f"-o {store} stores the result; --output_dir names the folder.")
        else:
            left.append(word)
    return Line(left, store, wants_help, quiet, notes)


def _is_folder(words: Sequence[Any], rest: Sequence[Any], table: FlagTable) -> bool:
    if "-o" not in table.flags:
        return False
    following = rest[0] if rest else None
    return "-i" in words or not (isinstance(following, str) and following.isidentifier())


def _name(flag: str, rest: list[Any]) -> str:
    name = rest.pop(0) if rest else None
    if isinstance(name, str) and name.isidentifier():
        return name
    raise SpecError(
        f"{flag} stores the result in a variable, and {name!r} is no name for one.",
        where=flag,
        remedy=f"Write {flag} result, for example.",
    )
