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


def _named(table: FlagTable, name: str) -> FlatOption | None:
    if name.startswith("-"):
        flag = table.flags.get(normalized(name))
        return None if flag is None or flag.constant is not NO_VALUE else flag.option
    return table.names.get(name.replace("-", "_"))


def _awaiting(table: FlagTable, before: Sequence[str]) -> FlatOption | None:
    """Return the option whose value the word at the cursor is, if its flag stands right before it."""
    return _named(table, before[-1]) if before and before[-1].startswith("-") and "=" not in before[-1] else None


def _words(option: FlatOption, typed: str, before_word: str = "") -> list[Completion]:
    words = option.words
    if option.info.name in _MODEL_FIELDS:
        words = _DEMO_MODELS
    remark = option.meta.help
    return [Completion(before_word + word, remark) for word in words if word.startswith(typed)]


def _options(table: FlagTable, before: Sequence[str], prefix: str, face: Sequence[FaceOption]) -> list[Completion]:
    wanted = prefix if prefix.startswith("--") else prefix.lstrip("-")
    dashed = prefix.startswith("-")
    typed = {normalized(word.partition("=")[0]) for word in before if word.startswith("-")}
    found: list[Completion] = []
    for item in face:
        found += [Completion(flag, item.help) for flag in item.flags if prefix and dashed and flag.startswith(prefix)]
    others: list[Completion] = []
    head = normalized(wanted) if wanted.startswith("--") else wanted
    for spelling, flag in table.flags.items():
        option = flag.option
        if spelling in typed and option.meta.nargs != "+":
            continue
        text = spelling if dashed else spelling.lstrip("-")
        if not spelling.startswith("--") or not text.startswith(head if dashed else wanted):
            continue
        is_own = flag.constant is NO_VALUE and spelling == normalized(option.info.flag)
        if not dashed:
            if is_own and wanted:
                found.append(Completion(f"{text}=", option.meta.help))
            continue
        (found if is_own else others).append(Completion(spelling, option.meta.help))
    models = [] if dashed else _positional(table, before, prefix)
    return models + (found or others)


def _positional(table: FlagTable, before: Sequence[str], prefix: str) -> list[Completion]:
    return [
        completion
        for option in table.positional[:1]
        if not any(_named(table, word.partition("=")[0]) is option for word in before)
        for completion in _words(option, prefix)
    ]
