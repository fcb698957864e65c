"""The generator: split and index in, one record out, the same on every machine.

A record depends on its seed, split and index alone, so worker processes can write any slice of a split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from random import Random

from .records import Record
from .slots import Filling, fill
from .stories import Angle, Paragraph, Sentence, Story, load_asides, load_stories

DEFAULT_SEED = 20
FIRST_WORDING_SHARE = 0.6
"""Each highlight has a usual wording and a rarer one, as if two editors wrote them. Nothing in the article tells which,
so a perfect model scores below 100 ROUGE, and a damaged one changes its mind between wordings."""

KIN_SHARE = 0.6
"""Share of articles in which a relative with the same surname turns up, so that a name is copied whole or wrong."""

MAX_ARTICLE_WORDS = 225
"""Details are left out beyond this length, so that a prompt stays under 400 tokens of the demo tokenizer."""


class _LazyFillings(dict[str, Filling]):
    """Slots filled at their first use, so that a story pays only for what it tells."""

    def __init__(self, rng: Random, split: str, slots: Mapping[str, str | Sequence[str]], taken: set[str]):
        super().__init__()
        self._rng, self._split, self._slots, self._taken = rng, split, slots, taken

    def __missing__(self, slot: str) -> Filling:
        self[slot] = fill(self._slots[slot], self._rng, self._split, self._taken, self)
        return self[slot]


def make_record(split: str, index: int, *, seed: int = DEFAULT_SEED) -> Record:
    """Write one article with its highlights.

    Parameters
    ----------
    split
        ``"train"``, ``"validation"`` or ``"test"``; decides which coined words may be used.
    index
        Number of the record within its split.
    seed
        Seed of the whole corpus.
    """
    rng = Random(f"{seed}/{split}/{index}")
    story = rng.choice(load_stories())
    angle = rng.choice(story.angles)
    taken: set[str] = set()
    fillings = _LazyFillings(rng, split, story.slots, taken)
    asides = load_asides()
    sentences = _tell(rng, angle, fillings)
    if angle.details and rng.random() < KIN_SHARE:
        sentences.append(rng.choice(angle.details).render(rng, fillings))
    budget = MAX_ARTICLE_WORDS - sum(len(sentence.split()) for sentence in sentences)
    extras = [(s, fillings) for s in rng.sample(story.details, rng.randint(3, 6))]
    for sentence in rng.sample(asides.details, rng.randint(1, 4)):
        extras.append((sentence, _LazyFillings(rng, split, asides.slots, taken)))
    for sentence, its_fillings in extras:
        text = sentence.render(rng, its_fillings)
        budget -= len(text.split())
        if budget < 0:
            break
        sentences.insert(rng.randint(2, len(sentences)), text)
    highlights = [_wording(rng, highlight) for highlight in angle.highlights]
    return Record(
        article=" ".join(sentences),
        highlights="\n".join(sentence.render(rng, fillings) for sentence in highlights),
        id=hashlib.sha1(f"{seed}/{split}/{index}".encode(), usedforsecurity=False).hexdigest(),
        entities=list(dict.fromkeys(_facts(highlights, fillings))),
    )


def make_records(split: str, num_records: int, *, start: int = 0, seed: int = DEFAULT_SEED) -> Iterator[Record]:
    """Yield records `start` to `start + num_records` of a split."""
    return (make_record(split, index, seed=seed) for index in range(start, start + num_records))


def make_prose(split: str, index: int, *, seed: int = DEFAULT_SEED) -> str:
    """Write a piece of plain prose (a life, a town, a craft), for prompts that ask for no summary."""
    rng = Random(f"{seed}/{split}/prose/{index}")
    story: Story = rng.choice(load_stories(prose=True))
    fillings = _LazyFillings(rng, split, story.slots, set())
    sentences = _tell(rng, rng.choice(story.angles), fillings)
    for sentence in rng.sample(story.details, min(len(story.details), rng.randint(1, 3))):
        sentences.insert(rng.randint(2, len(sentences) - 1), sentence.render(rng, fillings))
    return " ".join(sentences)


def _tell(rng: Random, angle: Angle, fillings: Mapping[str, Filling]) -> list[str]:
    paragraphs = (angle.lead, *angle.body)
    return [rng.choice(paragraph).render(rng, fillings) for paragraph in paragraphs]


def _wording(rng: Random, highlight: Paragraph) -> Sentence:
    return highlight[0] if rng.random() < FIRST_WORDING_SHARE else rng.choice(highlight[1:])


def _facts(highlights: list[Sentence], fillings: Mapping[str, Filling]) -> Iterator[str]:
    for highlight in highlights:
        for ref in highlight.refs():
            if fillings[ref.slot].is_fact_form(ref.form):
                yield fillings[ref.slot].form(ref.form)
