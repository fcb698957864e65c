"""Stories: the template files read into sentences, and the rules that make their highlights predictable.

A template sentence holds ``{slot}`` or ``{slot.form}`` and free choices ``[said|told reporters]``. Two rules are
checked when a file is read, because the demo's scores rest on them:

- a highlight has no free choice, all its wordings carry the same slots, and each of these stands in every wording of
  the lead or of one body paragraph, so the article always tells what the highlight needs;
- a lead does not open with a slot and a highlight does not open with a fact. At the very start of a text the tokenizer
  sees a word without its leading space, splits it otherwise, and the copy would have other tokens than the original.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

from trtbench_lab.errors import TrtbenchError

from .slots import Filling, is_known_spec

TEMPLATES_DIR = Path(__file__).resolve().parent / "templates"

_PART = re.compile(r"\{(\w+)(?:\.(\w+))?\}|\[([^\[\]]*\|[^\[\]]*)\]")


@dataclass(frozen=True, slots=True)
class SlotRef:
    """A place in a sentence where a slot's form goes."""

    slot: str
    form: str


@dataclass(frozen=True, slots=True)
class Sentence:
    """One wording: plain text, slots, and choices between wordings, in order."""

    parts: tuple[str | SlotRef | tuple[Sentence, ...], ...]

    @classmethod
    def parse(cls, text: str) -> Sentence:
        """Read a template sentence."""
        parts: list[str | SlotRef | tuple[Sentence, ...]] = []
        end = 0
        for match in _PART.finditer(text):
            if match.start() > end:
                parts.append(text[end : match.start()])
            slot, form, choices = match.groups()
            parts.append(SlotRef(slot, form or "") if slot else tuple(cls.parse(c) for c in choices.split("|")))
            end = match.end()
        if end < len(text):
            parts.append(text[end:])
        return cls(tuple(parts))

    def render(self, rng: Random, fillings: Mapping[str, Filling]) -> str:
        """Write the sentence out, making its free choices."""
        out: list[str] = []
        for part in self.parts:
            if isinstance(part, str):
                out.append(part)
            elif isinstance(part, SlotRef):
                out.append(fillings[part.slot].form(part.form))
            else:
                out.append(rng.choice(part).render(rng, fillings))
        return "".join(out)

    def refs(self) -> Iterator[SlotRef]:
        """Yield the slots that this sentence always holds, choices left out."""
        return (part for part in self.parts if isinstance(part, SlotRef))

    def all_refs(self) -> Iterator[SlotRef]:
        """Yield every slot that this sentence may hold."""
        for part in self.parts:
            if isinstance(part, SlotRef):
                yield part
            elif isinstance(part, tuple):
                for choice in part:
                    yield from choice.all_refs()


Paragraph = tuple[Sentence, ...]
"""The wordings of one paragraph; an article uses one of them."""


@dataclass(frozen=True, slots=True)
class Angle:
    """One way a story goes: lead, body in order, details that need this body, and the highlights that go with it."""

    lead: Paragraph
    body: tuple[Paragraph, ...]
    details: Paragraph
    highlights: tuple[Paragraph, ...]


@dataclass(frozen=True, slots=True)
class Story:
    """A kind of event: slots, angles, and details that any angle may mention."""

    kind: str
    slots: dict[str, str | Sequence[str]]
    angles: tuple[Angle, ...]
    details: Paragraph


@cache
def load_stories(prose: bool = False) -> tuple[Story, ...]:
    """Return the stories with highlights, or the kinds of plain prose, sorted by kind."""
    folder = TEMPLATES_DIR / ("prose" if prose else "news")
    return tuple(read_story(path) for path in sorted(folder.glob("*.toml")))


@cache
def load_asides() -> Story:
    """Return the sentences that may stand in any news story, with people and places of their own."""
    return read_story(TEMPLATES_DIR / "asides.toml")


def read_story(path: Path) -> Story:
    """Read and check one template file."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    angles = tuple(
        Angle(
            _wordings(angle["lead"]),
            tuple(_wordings(paragraph) for paragraph in angle.get("body", [])),
            _wordings(angle.get("details", "")),
            tuple(_wordings(highlight) for highlight in angle.get("highlights", [])),
        )
        for angle in table.get("angle", [])
    )
    story = Story(path.stem, table["slots"], angles, _wordings(table.get("details", "")))
    problems = list(_problems(story))
    if problems:
        raise TrtbenchError(" ".join(problems), where=str(path), remedy="Correct the template file.")
    return story


def _wordings(block: str) -> Paragraph:
    return tuple(Sentence.parse(line.strip()) for line in block.splitlines() if line.strip())


def _problems(story: Story) -> Iterator[str]:
    for slot, spec in story.slots.items():
        if not is_known_spec(spec):
            yield f"Slot {slot!r} has the unknown specification {spec!r}."
        elif isinstance(spec, str) and spec.startswith("kin ") and story.slots.get(spec.split()[1]) != "person":
            yield f"Slot {slot!r} is kin of {spec.split()[1]!r}, which is no person here."
    sentences = [*story.details]
    for angle in story.angles:
        paragraphs = (angle.lead, *angle.body)
        sentences += [wording for paragraph in (*paragraphs, angle.details, *angle.highlights) for wording in paragraph]
        if angle.highlights:
            told = {slot for paragraph in paragraphs for slot in _always(paragraph)}
            yield from _angle_problems(angle, story, told)
    used = {ref.slot for sentence in sentences for ref in sentence.all_refs()}
    yield from (f"Slot {slot!r} is not declared." for slot in sorted(used - story.slots.keys()))
    yield from (f"Slot {slot!r} is never used." for slot in sorted(story.slots.keys() - used))


def _angle_problems(angle: Angle, story: Story, told: set[str]) -> Iterator[str]:
    for wording in angle.lead:
        if isinstance(wording.parts[0], SlotRef):
            yield f"A lead opens with the slot {wording.parts[0].slot!r}."
    for highlight in angle.highlights:
        carried = [{ref.slot for ref in wording.refs()} for wording in highlight]
        if any(slots != carried[0] for slots in carried):
            yield f"The wordings of a highlight carry different slots: {sorted(set.union(*carried))}."
        for wording in highlight:
            if any(isinstance(part, tuple) for part in wording.parts):
                yield "A highlight has a free choice."
            first = wording.parts[0]
            if isinstance(first, SlotRef) and isinstance(story.slots.get(first.slot), str):
                yield f"A highlight opens with the fact {first.slot!r}."
        yield from (f"Slot {slot!r} of a highlight may go untold." for slot in sorted(carried[0] - told))


def _always(paragraph: Paragraph) -> set[str]:
    """Return the slots that every wording holds in full: `{judge.last}` alone does not tell who `{judge}` is."""
    held = [{ref.slot for ref in wording.refs() if ref.form in ("", "cap")} for wording in paragraph]
    return set.intersection(*held) if held else set()
