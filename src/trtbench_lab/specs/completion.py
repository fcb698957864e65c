"""What may come next on a line: options, their choices, and the demo models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .command_line import request_type
from .flags import NO_VALUE, FlagTable, FlatOption, flag_table, normalized
from .help_text import FaceOption

_DEMO_MODELS = ("demo", "demo:gpt2", "demo:llama")
_MODEL_FIELDS = frozenset({"source", "checkpoint_dir", "hf_model_dir"})


class Completion(NamedTuple):
    """One way to go on: the whole word, and a remark to show beside it."""

    text: str
    remark: str


def complete(verb: str, before: Sequence[str], prefix: str, face: Sequence[FaceOption] = ()) -> list[Completion]:
    """Return how `prefix`, the word at the cursor, may go on after the words `before` it.

    An option's choices come right after its flag or after ``name=``; otherwise options, in the spelling of this
    project first and in other tools' only where nothing else fits.
    """
    table = flag_table(request_type(verb))
    name, equals, typed = prefix.partition("=")
    if equals:
        option = _named(table, name)
        return [] if option is None else _words(option, typed, before_word=f"{name}=")
    option = _awaiting(table, before)
    found = [] if option is None or prefix.startswith("-") else _words(option, prefix)
    if found or (option is not None and not option.takes_optional_value):
        return found
    return _options(table, before, prefix, face)


def option_at(table: FlagTable, before: Sequence[str], prefix: str) -> FlatOption | None:
    """Return the option whose value the word at the cursor is; None where a flag is to come or nobody can say."""
    name, equals, _ = prefix.partition("=")
    if equals:
        return _named(table, name)
    if prefix.startswith("-"):
        return None
    option = _awaiting(table, before)
    if option is not None and not option.takes_optional_value:
        return option
    free = [positional for positional in table.positional if not _is_named(table, before, positional)]
    filled = _positional_words(table, before)
    return free[filled] if filled < len(free) else None


def _positional_words(table: FlagTable, before: Sequence[str]) -> int:
    """Return how many words so far belong to no flag."""
    count = 0
    for position, word in enumerate(before):
        option = _awaiting(table, before[:position])
        is_value = option is not None and (not option.takes_optional_value or option.accepts(word))
        count += not (word.startswith("-") or is_value or _named(table, word.partition("=")[0]) is not None)
    return count


def _is_named(table: FlagTable, before: Sequence[str], option: FlatOption) -> bool:
    return any(_named(table, word.partition("=")[0]) is option for word in before if "=" in word or word[:1] == "-")


def _named(table: FlagTable, name: str) -> FlatOption | None:
    if name.startswith("-"):
        flag = table.flags.get(normalized(name))
        return None if flag is None or flag.constant is not NO_VALUE else flag.option
    return table.names.get(name.replace("-", "_"))


def _awaiting(table: FlagTable, before: Sequence[str]) -> FlatOption | None:
    """Return the option whose flag stands right before the cursor."""
    return _named(table, before[-1]) if before and before[-1].startswith("-") and "=" not in before[-1] else None


def _words(option: FlatOption, typed: str, before_word: str = "") -> list[Completion]:
    words = option.words
    if option.info.name in _MODEL_FIELDS:
        words = _DEMO_MODELS
    remark = option.meta.help
    return [Completion(before_word + word, remark) for word in words if word.startswith(typed)]


def _options(table: FlagTable, before: Sequence[str], prefix: str, face: Sequence[FaceOption]) -> list[Completion]:
    named = {normalized(word.partition("=")[0]) for word in before if word.startswith("-")}
    if prefix and not prefix.startswith("-"):
        return _first_positional(table, before, prefix) + _assignments(table, prefix)
    wanted = normalized(prefix) if prefix.startswith("--") else prefix
    own: list[Completion] = []
    borrowed: list[Completion] = []
    for spelling, flag in table.flags.items():
        option = flag.option
        if not spelling.startswith(("--" + wanted.lstrip("-")) if wanted in ("", "-") else wanted):
            continue
        if not spelling.startswith("--") or (spelling in named and option.meta.nargs != "+"):
            continue
        is_own = flag.constant is NO_VALUE and spelling == normalized(option.info.flag)
        (own if is_own else borrowed).append(Completion(spelling, option.meta.help))
    of_face = [Completion(flag, item.help) for item in face for flag in item.flags if flag.startswith(prefix or "--")]
    return _first_positional(table, before, prefix) + (own or borrowed) + of_face


def _assignments(table: FlagTable, prefix: str) -> list[Completion]:
    """Return ``name=`` for options whose name begins with `prefix`."""
    wanted = prefix.replace("-", "_")
    return [
        Completion(f"{option.info.name}=", option.meta.help)
        for option in table.options
        if option.info.name.startswith(wanted)
    ]


def _first_positional(table: FlagTable, before: Sequence[str], prefix: str) -> list[Completion]:
    if prefix.startswith("-"):
        return []
    option = option_at(table, before, prefix)
    return [] if option is None else _words(option, prefix)
