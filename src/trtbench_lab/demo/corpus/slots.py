"""Slots of a story: what kind of thing fills each, and how a filled slot reads in a sentence.

A slot is declared in a template file by a short specification: ``person``, ``town``, ``date``, ``count 2 9 years``,
``money 1 90 million`` and so on, or a list of phrases to choose from. All but lists of phrases are facts: when the
highlights use one, a good summary must repeat it exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from .names import coin

# Month names with their days; a leap day would be a date that most years lack.
_MONTHS = (
    ("January", 31),
    ("February", 28),
    ("March", 31),
    ("April", 30),
    ("May", 31),
    ("June", 30),
    ("July", 31),
    ("August", 31),
    ("September", 30),
    ("October", 31),
    ("November", 30),
    ("December", 31),
)
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_CLUBS = ("Rovers", "United", "Athletic", "Wanderers", "Rangers", "Albion", "Harriers")
_FIRMS = (
    *("Systems", "Shipping", "Foods", "Motors", "Energy", "Holdings"),
    *("Textiles", "Instruments", "Chemicals", "Robotics", "Airways", "Paper"),
)
_PAPERS = ("Courier", "Gazette", "Herald", "Chronicle", "Observer", "Mercury")

# Forms are asked for by the words for a woman: {host.She}, {kin.sister}; {host.them} is "her" or "him".
_FORM_NAMES = ("she", "She", "her", "Her", "them", "sister", "mother", "aunt", "daughter", "niece", "wife")
_FORMS_BY_GENDER = {
    "her": ("she", "She", "her", "Her", "her", "sister", "mother", "aunt", "daughter", "niece", "wife"),
    "him": ("he", "He", "his", "His", "him", "brother", "father", "uncle", "son", "nephew", "husband"),
}


@dataclass(frozen=True, slots=True)
class Filling:
    """A filled slot: its text and the other forms a sentence may ask for, such as ``last`` or ``she``."""

    text: str
    forms: dict[str, str] = field(default_factory=dict)
    is_fact: bool = True

    def form(self, name: str) -> str:
        """Return one form; the empty name is the text itself, ``cap`` the text with a capital first letter."""
        if not name:
            return self.text
        if name == "cap":
            return self.text[0].upper() + self.text[1:]
        return self.forms[name]

    def is_fact_form(self, name: str) -> bool:
        """Whether this form carries the fact: a pronoun does not."""
        return self.is_fact and name in ("", "cap", "last", "first", "word")


def fill(spec: str | Sequence[str], rng: Random, split: str, taken: set[str], others: Mapping[str, Filling]) -> Filling:
    """Fill one slot.

    Parameters
    ----------
    spec
        The slot's specification from the template file.
    rng
        The record's own generator.
    split
        Which split's coined words may be used.
    taken
        Words this record already uses; two people of one story share a name only when they are kin.
    others
        The story's other slots: kin bear the surname of one of them.
    """
    if not isinstance(spec, str):
        return Filling(rng.choice(spec), is_fact=False)
    kind, *arguments = spec.split()
    if kind == "kin":
        return _person(rng, split, taken, last=others[arguments[0]].form("last"))
    return _FILLERS[kind](rng, split, taken, *arguments)


def is_known_spec(spec: str | Sequence[str]) -> bool:
    """Whether `fill` knows this specification."""
    return bool(spec) and (not isinstance(spec, str) or spec.split()[0] in (*_FILLERS, "kin"))


def _person(rng: Random, split: str, taken: set[str], last: str = "") -> Filling:
    gender = rng.choice(("her", "him"))
    first = coin(rng, f"first_{gender}", split, taken)
    last = last or coin(rng, "last", split, taken)
    forms = dict(zip(_FORM_NAMES, _FORMS_BY_GENDER[gender], strict=True))
    return Filling(f"{first} {last}", {"first": first, "last": last} | forms)


def _place_based(ends: Sequence[str]) -> Callable[..., Filling]:
    def filler(rng: Random, split: str, taken: set[str]) -> Filling:
        word = coin(rng, "place", split, taken)
        return Filling(f"{word} {rng.choice(ends)}" if ends else word, {"word": word})

    return filler


def _firm(rng: Random, split: str, taken: set[str]) -> Filling:
    word = coin(rng, "firm", split, taken)
    return Filling(f"{word} {rng.choice(_FIRMS)}", {"word": word})


def _date(rng: Random, split: str, taken: set[str]) -> Filling:
    month, num_days = rng.choice(_MONTHS)
    return Filling(f"{rng.randint(1, num_days)} {month}")


def _count(rng: Random, split: str, taken: set[str], low: str, high: str, *noun: str) -> Filling:
    number = rng.randint(int(low), int(high))
    # Newspapers spell numbers below ten.
    return Filling(" ".join([_WORDS[number] if number < len(_WORDS) else str(number), *noun]))


def _number(rng: Random, split: str, taken: set[str], low: str, high: str, *noun: str) -> Filling:
    return Filling(" ".join([f"{rng.randint(int(low), int(high)):,}", *noun]))


def _money(rng: Random, split: str, taken: set[str], low: str, high: str, unit: str) -> Filling:
    if unit == "thousand":
        return Filling(f"${rng.randint(int(low), int(high))},{rng.choice(('000', '500', '250', '400', '800'))}")
    return Filling(f"${rng.randint(int(low), int(high))}.{rng.randint(1, 9)} {unit}")


def _score(rng: Random, split: str, taken: set[str]) -> Filling:
    loser = rng.randint(0, 3)
    return Filling(f"{loser + rng.randint(1, 3)}-{loser}")


_FILLERS: dict[str, Callable[..., Filling]] = {
    "person": _person,
    "town": _place_based(()),
    "club": _place_based(_CLUBS),
    "paper": _place_based(_PAPERS),
    "firm": _firm,
    "date": _date,
    "weekday": lambda rng, split, taken: Filling(rng.choice(_WEEKDAYS)),
    "age": lambda rng, split, taken, low, high: Filling(str(rng.randint(int(low), int(high)))),
    "year": lambda rng, split, taken, low, high: Filling(str(rng.randint(int(low), int(high)))),
    "time": lambda rng, split, taken: Filling(f"{rng.randint(1, 11)}.{rng.randint(10, 59)} {rng.choice(('am', 'pm'))}"),
    "percent": lambda rng, split, taken, low, high: Filling(f"{rng.randint(int(low), int(high))} percent"),
    "count": _count,
    "number": _number,
    "money": _money,
    "score": _score,
}
