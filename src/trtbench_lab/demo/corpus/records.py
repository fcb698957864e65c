"""One article with its highlights, the files that hold such records, and the measure of copied facts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypedDict

from trtbench_lab.errors import TrtbenchError


class Record(TypedDict):
    """A record in the cnn_dailymail schema, and the facts its highlights must carry."""

    article: str
    highlights: str
    id: str
    entities: list[str]


def entities(record: Record) -> list[str]:
    """Return the names, places, figures and dates that the highlights of `record` carry, in order of appearance."""
    return list(record["entities"])


def mentions(text: str, entity: str) -> bool:
    """Whether `text` holds `entity` exactly, as whole words: "2 May" is not in "12 May"."""
    return re.search(rf"(?<!\w){re.escape(entity)}(?!\w)", text) is not None


def entity_accuracy(summaries: Sequence[str], records: Sequence[Record]) -> float:
    """Return the share of entities, in percent, that the summaries hold exactly.

    Formula:
        100 × (entities found in their own summary) / (entities of all records)
    """
    if len(summaries) != len(records):
        raise TrtbenchError(
            f"There are {len(summaries)} summaries for {len(records)} records.",
            where="entity accuracy",
            remedy="Pass one summary for each record, in the same order.",
        )
    pairs = [(text, entity) for text, record in zip(summaries, records, strict=True) for entity in record["entities"]]
    if not pairs:
        raise TrtbenchError(
            "The records name no entities, so their share cannot be computed.",
            where="entity accuracy",
            remedy="Use records of the demo corpus, which carry a field 'entities'.",
        )
    return 100.0 * sum(mentions(text, entity) for text, entity in pairs) / len(pairs)


def read_records(path: Path | str) -> Iterator[Record]:
    """Yield the records of a JSONL file."""
    with Path(path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise TrtbenchError(
                    f"Line {number} is not a JSON object: {error.msg}.",
                    where=str(path),
                    remedy="Write the file again: python scripts/make_demo.py corpus",
                ) from error


def write_records(path: Path | str, records: Iterable[Record]) -> int:
    """Write records as JSONL, one object a line, and return how many were written."""
    num_records = 0
    with Path(path).open("w", encoding="utf-8", newline="\n") as lines:
        for record in records:
            lines.write(json.dumps(record, ensure_ascii=True) + "\n")
            num_records += 1
    return num_records
