"""One flag that other tools know: ignored with a reason, refused with what is available, or said in our words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Sets = Mapping[str, Any] | Callable[[str], Mapping[str, Any]]


@dataclass(frozen=True)
class Legacy:
    """What becomes of a flag that has no field here.

    Attributes
    ----------
    words
        Words that follow the flag: a number, ``"?"`` for one or none, ``"+"`` for all up to the next flag.
    sentence
        Why it does nothing, or what is available instead.
    refused
        Whether the request stops there.
    sets
        Option names and values that it stands for, or a function from the word typed to them.
    harmless
        Words with which a refused flag asks for nothing: ``("0", "disable")``.
    """

    words: int | str
    sentence: str
    refused: bool = False
    sets: Sets | None = None
    harmless: tuple[str, ...] = ()


LegacyTable = dict[str, Legacy]


def ignored(sentence: str, words: int | str, *flags: str) -> LegacyTable:
    """Flags that are accepted and do nothing, each with the reason."""
    return {flag: Legacy(words, sentence) for flag in flags}


def refused(sentence: str, words: int | str, *flags: str, harmless: tuple[str, ...] = ()) -> LegacyTable:
    """Flags that ask for something this version does not have."""
    return {flag: Legacy(words, sentence, refused=True, harmless=harmless) for flag in flags}


def meant(sentence: str, words: int | str, flag: str, sets: Sets) -> LegacyTable:
    """A flag that is another option in our words."""
    return {flag: Legacy(words, sentence, sets=sets)}
