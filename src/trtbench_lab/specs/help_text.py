"""Help of a verb, written from its options: type, default, choices and every spelling."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from .command_line import VERBS, request_type
from .flags import FlatOption, flag_table, placeholder
from .options import OptionInfo
from .spec import Spec

_WIDTH = 100


class FaceOption(NamedTuple):
    """A flag of the face itself (shell or magic) rather than of the request: ``-o NAME``, ``--json``."""

    flags: tuple[str, ...]
    metavar: str
    help: str


def summary(verb: str) -> str:
    """Return what the verb does, in one line."""
    return first_line(request_type(verb))


def first_line(spec: type[Spec]) -> str:
    """Return the first line of a spec's docstring."""
    return (spec.__doc__ or "").strip().splitlines()[0]


def help_text(verb: str, program: str, face: Sequence[FaceOption] = (), *, columns: int | None = None) -> str:
    """Return the help of `verb` as plain text.

    Parameters
    ----------
    verb
        ``"build"`` …
    program
        How the face calls it: ``"trtbench build"`` or ``"%trt_build"``.
    face
        Options of the face itself.
    columns
        Of the screen; texts are broken there, and never beyond 100.
    """
    width = min(columns or _WIDTH, _WIDTH)
    table = flag_table(request_type(verb))
    lines = [_usage(program, table.positional), "", *_wrapped(summary(verb), columns)]
    for group, options in _groups(table.options).items():
        lines += ["", f"{group}:"]
        for option in options:
            lines += _option_lines(option, width)
    if face:
        lines += ["", "this line:"]
        for item in face:
            lines += _entry(" ".join([", ".join(item.flags), item.metavar]).strip(), item.help, width)
    lines += ["", *_wrapped("Flags may be written with - or _, and --name value also as name=value.", columns)]
    return "\n".join(lines)


def overview(program: str = "trtbench", *, columns: int | None = None) -> str:
    """Return the list of verbs, broken at the columns of the screen where they are known."""
    width = max(len(verb) for verb in VERBS)
    lines = [f"{program} VERB [options]", ""]
    for verb in VERBS:
        lines += _wrapped(summary(verb), columns, f"  {verb.ljust(width)}  ", " " * (width + 4))
    return "\n".join([*lines, "", f"{program} VERB --help tells the options of a verb."])


def default_in_words(info: OptionInfo) -> str:
    """Return an option's default as it would be typed; empty where there is none."""
    value = info.default
    if info.required or value is None or value == ():
        return ""
    if info.meta.render is not None:
        return info.meta.render(value)
    if isinstance(value, bool):
        return "enable" if value else "disable"
    if isinstance(value, tuple):
        return " ".join(f'"{item}"' for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _usage(program: str, positional: Sequence[FlatOption]) -> str:
    words = []
    for option in positional:
        word = option.info.name + (" …" if option.meta.nargs == "+" else "")
        words.append(word if option.info.required else f"[{word}]")
    return " ".join([program, *words, "[options]"])


def _groups(options: Sequence[FlatOption]) -> dict[str, list[FlatOption]]:
    groups: dict[str, list[FlatOption]] = {}
    for option in options:
        groups.setdefault(option.meta.group or "options", []).append(option)
    return groups


def _option_lines(option: FlatOption, width: int) -> list[str]:
    meta = option.meta
    value = "" if option.is_switch else placeholder(option)
    if option.takes_optional_value and value:
        value = f"[{value}]"
    remarks = [meta.help]
    if meta.effect:
        remarks.append(meta.effect)
    details = [
        "required" if option.info.required else "",
        f"default {default}" if (default := default_in_words(option.info)) else "",
        f"in {meta.unit}" if meta.unit else "",
        _bounds(option),
        f"also {', '.join(others)}" if (others := _other_spellings(option)) else "",
    ]
    text = " ".join(remarks)
    told = "; ".join(detail for detail in details if detail)
    return _entry(f"{option.info.flag} {value}".strip(), f"{text} ({told})" if told else text, width)


def _bounds(option: FlatOption) -> str:
    low, high = option.meta.minimum, option.meta.maximum
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    return f"at least {low:g}" if low else ""


def _other_spellings(option: FlatOption) -> list[str]:
    spellings = [*option.meta.flags, *option.meta.constants]
    return [spelling for spelling in dict.fromkeys(spellings) if spelling != option.info.flag]


def _entry(head: str, text: str, width: int) -> list[str]:
    indent = " " * 6
    # Flags keep their hyphens and paths their length: what is copied from here must be whole.
    return [f"  {head}", *_wrapped(text, width, indent, indent)]


def _wrapped(text: str, columns: int | None, first: str = "", rest: str = "") -> list[str]:
    if columns is None:
        return [first + text]
    return textwrap.wrap(
        text, columns, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False, break_long_words=False
    )
