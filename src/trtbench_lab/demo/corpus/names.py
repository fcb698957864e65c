"""Names that nobody bears, coined from syllables; each coined word belongs to exactly one split.

The space is wide on purpose (about 90,000 first names, 130,000 surnames, 60,000 place names): a model that remembers
names gains nothing, one that copies them from the article gets them right.
"""

from __future__ import annotations

import tomllib
import zlib
from functools import cache
from pathlib import Path
from random import Random

SYLLABLES_FILE = Path(__file__).resolve().parent / "templates" / "syllables.toml"

_NUM_BUCKETS = 20
_HELD_OUT = {0: "validation", 1: "test"}
_MIN_LETTERS = 4


def split_of_word(word: str) -> str:
    """Return the split that may use a coined word: 1 word in 20 is validation's, 1 in 20 test's, the rest train's."""
    return _HELD_OUT.get(zlib.crc32(word.lower().encode()) % _NUM_BUCKETS, "train")


def coin(rng: Random, kind: str, split: str, taken: set[str]) -> str:
    """Coin a word that belongs to `split` and is not in `taken`, and add it there.

    Parameters
    ----------
    rng
        The record's own generator.
    kind
        ``"first_her"``, ``"first_him"``, ``"last"``, ``"place"`` or ``"firm"``.
    split
        The split that the word must belong to.
    taken
        Words that the record already uses.
    """
    unwelcome = _syllables()["unwelcome"]["parts"]
    while True:
        word = "".join(rng.choice(part) for part in _parts(rng, kind))
        lower = word.lower()
        if len(word) < _MIN_LETTERS or word in taken or split_of_word(word) != split:
            continue
        if any(part in lower for part in unwelcome):
            continue
        # "Marrra" or "Belllan" come from joining syllables; nobody is called that.
        if any(a == b == c for a, b, c in zip(lower, lower[1:], lower[2:], strict=False)):
            continue
        taken.add(word)
        return word


@cache
def _syllables() -> dict[str, dict[str, list[str]]]:
    table = tomllib.loads(SYLLABLES_FILE.read_text(encoding="utf-8"))
    return {kind: {name: text.split() for name, text in parts.items()} for kind, parts in table.items()}


def _parts(rng: Random, kind: str) -> list[list[str]]:
    """Return the lists to choose from, one for each syllable of the name."""
    table = _syllables()
    if kind.startswith("first_"):
        first = table["first"]
        num_middles = rng.choices((0, 1, 2), weights=(4, 10, 1))[0]
        return [first["starts"], *[first["middles"]] * num_middles, first[f"ends_{kind.removeprefix('first_')}"]]
    if kind == "last":
        sound = table["other_last" if rng.random() < 0.25 else "last"]
        return [sound["starts"], *[table["last"]["middles"]] * (rng.random() < 0.7), sound["ends"]]
    sound = table[kind]
    # Half of the places are short (Ashford), half long (Ashlingford); companies always have a middle.
    return [sound["starts"], *[sound["middles"]] * (kind == "firm" or rng.random() < 0.5), sound["ends"]]
