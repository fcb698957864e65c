"""Words to a request and back: the one engine behind the shell, the magics and every "equivalent line"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import SpecError, suggest
from .coerce import shown
from .conflicts import find_conflicts, find_notes, find_warnings, raise_conflicts, settle
from .flags import FlatOption, flag_table, text_from_value
from .program import without_program
from .reading import FLAG, LineReader
from .requests import REQUESTS
from .spec import Spec

VERBS = tuple(REQUESTS)


class Parsed(NamedTuple):
    """A request and what is to be told about how it was understood."""

    spec: Any
    notes: list[str]


def parse(verb: str, tokens: Sequence[Any], defaults: Mapping[str, Any] | None = None) -> Parsed:
    """Return the request that `tokens` ask of `verb`.

    Parameters
    ----------
    verb
        ``"build"``, ``"run"`` …
    tokens
        Words as a shell splits them. A word that is no text (an engine, a spec, a list) stands for the value itself.
        ``name=value`` means ``--name value``.
    defaults
        Option name → value, for options that the line does not name; those the verb does not have are passed over.

    Raises
    ------
    SpecError
        Names everything that is wrong with the line at once: unknown flags with the nearest known one, values that do
        not fit, features of later versions with what is available, missing options, contradictions.
    """
    spec_type = request_type(verb)
    words, notes = without_program(list(tokens))
    reader = LineReader(verb, flag_table(spec_type), notes)
    reader.read(words)
    reader.fill_positional()
    reader.fill_defaults(defaults or {})
    spec = reader.request(spec_type)
    settled = settle(spec)
    spec = settled.specs[0]
    raise_conflicts(find_conflicts(spec), where=verb)
    said = [*reader.notes, *settled.notes]
    said += [str(item) for item in (*find_notes(spec), *find_warnings(spec))]
    return Parsed(spec, list(dict.fromkeys(said)))


def request_type(verb: str) -> type[Spec]:
    """Return the spec class of a verb."""
    if verb not in REQUESTS:
        nearest = suggest(verb, VERBS)
        remedy = f"Did you mean {nearest!r}?" if nearest else f"Known: {', '.join(VERBS)}."
        raise SpecError(f"There is no command {shown(verb)}.", remedy=remedy)
    return REQUESTS[verb]


def command_line(verb: str, spec: Spec) -> list[str]:
    """Return the words that `parse` reads as `spec`: only what differs from the defaults, without secrets."""
    words: list[str] = []
    for option in flag_table(type(spec)).options:
        owner: Any = spec
        for name in option.path[:-1]:
            owner = getattr(owner, name)
        value = getattr(owner, option.info.name)
        if option.meta.derived and value == owner.derived(option.info.name):
            continue
        if option.meta.secret or (not option.info.required and value == option.info.default):
            continue
        words += _written(option, value)
    return words


def _written(option: FlatOption, value: Any) -> list[str]:
    flag = option.info.flag
    if value is True:
        return [flag]
    if option.meta.render is not None and value is not None:
        texts = [option.meta.render(value)]
    elif isinstance(value, tuple | list):
        texts = [text_from_value(item) for item in value] or [""]
    else:
        texts = [text_from_value(value)]
    # A backslash alone is what is left of a line that was continued: read as no word.
    if any(FLAG.match(text) or text == "--" or text.strip() == "\\" for text in texts):
        return [f"{flag}={text}" for text in texts]
    return [flag, *texts]
