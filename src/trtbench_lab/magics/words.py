"""Splits a magic's line into words, with ``$name``, ``{expression}`` and ``name=variable`` from the notebook."""

from __future__ import annotations

import re
import shlex
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import SpecError
from ..specs.flags import FlagTable

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_DOLLAR = re.compile(r"\$(?:\$|([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*))")
_ASSIGNED = re.compile(r"(?<!\S)((?:--)?[A-Za-z_][\w-]*)=([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?!\S)")
# Two characters of the private use area stand around the number of a value that is filled in after splitting.
_MARK = re.compile("\ue000(\\d+)\ue001")


def split_line(line: str, shell: InteractiveShell, table: FlagTable) -> list[Any]:
    """Return the words of a line, as a shell splits them, with values from the notebook in their places.

    A word that is nothing but one ``$name`` or ``{expression}`` becomes that object itself; inside a longer word its
    text is filled in. What has no value in the notebook stays as it is typed. After ``name=`` a variable's bare name is
    enough, unless it is one of the option's own choices.

    Raises
    ------
    SpecError
        When a quotation mark is left open.
    """
    values: list[Any] = []

    def keep(value: Any) -> str:
        values.append(value)
        return f"\ue000{len(values) - 1}\ue001"

    look_up = _evaluator(shell)
    marked = _mark_braces(line.replace("\ue000", "").replace("\ue001", ""), look_up, keep)
    marked = _DOLLAR.sub(lambda match: _marked_dollar(match, look_up, keep), marked)
    marked = _mark_assigned(marked, table, look_up, keep)
    try:
        words = shlex.split(marked)
    except ValueError:
        raise SpecError(
            "A quotation mark in this line is left open.",
            where=line.strip()[:60],
            remedy="Put texts with an apostrophe between double quotes.",
        ) from None
    return [piece for word in words for piece in _filled(word, values)]


def _evaluator(shell: InteractiveShell) -> Callable[[str], Any]:
    def look_up(expression: str) -> Any:
        # The notebook's own code, evaluated as a cell would; IPython's {…} expansion does the same.
        return eval(expression, shell.user_global_ns, shell.user_ns)  # noqa: S307

    return look_up


def _mark_braces(line: str, look_up: Callable[[str], Any], keep: Callable[[Any], str]) -> str:
    """Replace each ``{expression}`` that has a value by its mark; ``{{`` and ``}}`` are plain braces."""
    done, position = [], 0
    while position < len(line):
        if line.startswith(("{{", "}}"), position):
            done.append(line[position])
            position += 2
            continue
        end = _closing(line, position) if line[position] == "{" else None
        if end is None:
            done.append(line[position])
            position += 1
            continue
        try:
            done.append(keep(look_up(line[position + 1 : end].strip())))
        except Exception:  # no expression, or none with a value: it is text
            done.append(line[position : end + 1])
        position = end + 1
    return "".join(done)


def _closing(line: str, start: int) -> int | None:
    """Return the position of the brace that closes the one at `start`."""
    depth = 0
    for position in range(start, len(line)):
        depth += {"{": 1, "}": -1}.get(line[position], 0)
        if depth == 0:
            return position
    return None


def _marked_dollar(match: re.Match[str], look_up: Callable[[str], Any], keep: Callable[[Any], str]) -> str:
    if match.group(1) is None:
        return "$"
    try:
        return keep(look_up(match.group(1)))
    except Exception:
        return match.group(0)


def _mark_assigned(line: str, table: FlagTable, look_up: Callable[[str], Any], keep: Callable[[Any], str]) -> str:
    """Replace the variable in ``name=variable`` by its mark, where `name` is an option and the variable has a value."""

    def marked(match: re.Match[str]) -> str:
        name, variable = match.groups()
        plain = name.lstrip("-").replace("-", "_")
        option = table.names.get(plain)
        if option is None and plain not in table.nested:
            return match.group(0)
        if option is not None and option.accepts(variable):
            return match.group(0)
        try:
            value = look_up(variable)
        except Exception:
            return match.group(0)
        # A word that happens to be the name of a module or function ("engine_dir=build") is still a word.
        if isinstance(value, types.ModuleType | type) or callable(value):
            return match.group(0)
        return f"{name}={keep(value)}"

    return _ASSIGNED.sub(marked, line)


def _filled(word: str, values: list[Any]) -> list[Any]:
    """Put values in the places of their marks."""
    whole = _MARK.fullmatch(word)
    if whole is not None:
        return [values[int(whole.group(1))]]
    name, equals, rest = word.partition("=")
    attached = _MARK.fullmatch(rest) if equals else None
    if attached is not None:
        value = values[int(attached.group(1))]
        if not isinstance(value, str):
            flag = name if name.startswith("-") else f"--{name}"
            return [flag, value]
    return [_MARK.sub(lambda mark: str(values[int(mark.group(1))]), word)]
