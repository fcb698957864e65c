"""Articles with reference summaries, in the cnn_dailymail schema, from a file or a folder of any usual form."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import EvaluationError, did_you_mean, require

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".arrow")
TEXT_FIELDS = ("text", "content", "prompt")


@dataclass(frozen=True, kw_only=True)
class Article:
    """One record.

    Attributes
    ----------
    article, highlights
        The text, and the reference summary.
    id
        The record's own id, else its place.
    entities
        Names and figures that a summary should hold; empty where the records have none.
    """

    article: str
    highlights: str
    id: str
    entities: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ArticleSet:
    """The first articles of a source, in its order.

    Attributes
    ----------
    articles
        The records.
    source, split
        Where they come from.
    has_entities
        Whether the records name entities.
    """

    articles: list[Article]
    source: str
    split: str
    has_entities: bool


def load_articles(path: str | Path | None = None, *, split: str = "test", count: int = 20) -> ArticleSet:
    """Read the first `count` articles.

    Parameters
    ----------
    path
        A ``.jsonl``, ``.json``, ``.csv`` or ``.parquet`` file; a folder that holds such files named after their split
        (as on the hub), or that ``datasets``' ``save_to_disk`` wrote; None for the demo corpus.
    split
        Which part of a folder.
    count
        How many.

    Raises
    ------
    EvaluationError
        For a missing or unreadable file, records without ``article`` and ``highlights``, or fewer than `count`.
    """
    if count < 1:
        raise EvaluationError(f"{count} articles cannot be scored.", remedy="Ask for at least one.")
    if path is None:
        from ..demo import demo_corpus_path

        path = demo_corpus_path(split)
    source = Path(path).expanduser()
    files = _files(source, split)
    records = (record for file in files for record in _records(file))
    articles = []
    has_entities = False
    for index, (where, record) in enumerate(islice(records, count)):
        articles.append(_article(record, where, index))
        has_entities = has_entities or "entities" in record
    if len(articles) < count:
        raise EvaluationError(
            f"{count} articles were asked for and there are {len(articles)}."
            if articles
            else "There is no article in it.",
            where=str(source),
            remedy=f"Ask for at most {len(articles)} (max_ite × batch_size)." if articles else "Give another file.",
        )
    return ArticleSet(articles=articles, source=str(source), split=split, has_entities=has_entities)


def load_texts(path: str | Path | None = None, *, split: str = "validation") -> list[str]:
    """Read every text of a dataset, for calibration and perplexity.

    Parameters
    ----------
    path
        As `load_articles` takes it, or a ``.txt`` file (one text); None for the demo corpus.
    split
        Which part of a folder; a folder without it gives its train split, or the only one it has.

    Returns
    -------
    One text a record: its fields ``article`` and ``highlights`` one after the other, or the one of `TEXT_FIELDS` that
    it has.

    Raises
    ------
    EvaluationError
        For a missing or unreadable file, or records without any of these fields.
    """
    if path is None:
        from ..calibration.text import demo_texts

        return demo_texts(split)
    source = Path(path).expanduser()
    if source.suffix.lower() == ".txt" and source.is_file():
        try:
            return [source.read_text(encoding="utf-8")]
        except (OSError, UnicodeDecodeError) as error:
            raise EvaluationError(
                f"The file cannot be read: {error}.", where=str(source), remedy="Save it as UTF-8."
            ) from error
    found = [
        _text(record, where) for file in _files(source, _split_of(source, split)) for where, record in _records(file)
    ]
    if not found:
        raise EvaluationError("There is no text in it.", where=str(source), remedy="Give another file.")
    return found


def _split_of(source: Path, split: str) -> str:
    """Return the split to read: the one asked for where the folder has it, else train, else the only one."""
    if not source.is_dir():
        return split
    splits = {name for file in source.rglob("*") if (name := _split_name(file, source))}
    if split in splits or not splits:
        return split
    return "train" if "train" in splits or len(splits) > 1 else splits.pop()


def _text(record: Any, where: str) -> str:
    if isinstance(record, str):
        return record
    if not isinstance(record, Mapping):
        raise EvaluationError(f"The record is a {type(record).__name__}, not an object.", where=where)
    if isinstance(record.get("article"), str):
        highlights = record.get("highlights")
        return f"{record['article']}\n{highlights}" if isinstance(highlights, str) else record["article"]
    for name in TEXT_FIELDS:
        if isinstance(record.get(name), str):
            return str(record[name])
    raise EvaluationError(
        f"The record has no text. Its fields: {', '.join(map(str, record))}.",
        where=where,
        remedy=f"Records need one of article, {', '.join(TEXT_FIELDS)}.",
    )


def _files(source: Path, split: str) -> list[Path]:
    if source.is_file():
        if source.suffix.lower() not in SUFFIXES:
            raise EvaluationError(
                f"A file of type {source.suffix or 'no suffix'} is not read.",
                where=str(source),
                remedy=f"Use one of {', '.join(SUFFIXES)}.",
            )
        return [source]
    if not source.is_dir():
        raise EvaluationError(
            "There is no such file or folder.",
            where=str(source),
            remedy="Give a file of articles, or leave it out for the demo corpus.",
        )
    found = sorted(
        file for file in source.rglob("*") if file.suffix.lower() in SUFFIXES and _holds(file, source, split)
    )
    # A hub folder may offer the same records in several forms and versions: one folder and one form of them is read.
    chosen = [file for file in found if file.parent == found[0].parent and file.suffix == found[0].suffix]
    if not chosen:
        splits = sorted({name for file in source.rglob("*") if (name := _split_name(file, source))})
        raise EvaluationError(
            f"The folder holds no articles of the split {split!r}.",
            where=str(source),
            remedy=did_you_mean(split, splits) if splits else f"Put a {split}.jsonl into it, or give a file.",
        )
    return chosen


def _holds(file: Path, source: Path, split: str) -> bool:
    """Whether a file of a dataset folder belongs to the split, by its own or its folder's name."""
    return _split_name(file, source) == split


def _split_name(file: Path, source: Path) -> str | None:
    """``test`` of ``test.jsonl``, ``test-00000-of-00001.parquet`` or ``test/data-00000-of-00001.arrow``."""
    if file.suffix.lower() not in SUFFIXES or file.name in ("dataset_info.json", "state.json", "dataset_dict.json"):
        return None
    name = file.stem.split("-", 1)[0]
    if name == "data" and file.suffix == ".arrow":
        # save_to_disk of one split names no split at all
        return file.parent.name if file.parent != source else "test"
    return name


def _records(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield (place, record) of a file."""
    readers = {
        ".jsonl": _from_jsonl,
        ".json": _from_json,
        ".csv": _from_csv,
        ".parquet": _from_parquet,
        ".arrow": _from_arrow,
    }
    try:
        yield from readers[file.suffix.lower()](file)
    except UnicodeDecodeError as error:
        raise EvaluationError(
            f"The file is not UTF-8 text: byte {error.start} cannot be read.",
            where=str(file),
            remedy="Save it as UTF-8.",
        ) from error
    except OSError as error:
        raise EvaluationError(
            f"The file cannot be read: {error.strerror or error}.",
            where=str(file),
            remedy="Check path and permissions.",
        ) from error


def _from_jsonl(file: Path) -> Iterator[tuple[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"{file}, line {number}"
                yield where, _parsed(line, where)


def _from_json(file: Path) -> Iterator[tuple[str, Any]]:
    content = _parsed(file.read_text(encoding="utf-8"), str(file))
    if isinstance(content, Mapping):
        lists = [value for value in content.values() if isinstance(value, list)]
        content = lists[0] if len(lists) == 1 else content
    if not isinstance(content, list):
        raise EvaluationError(
            "The file is not a list of records.",
            where=str(file),
            remedy='Write [{"article": …, "highlights": …}, …], or one record a line in a .jsonl file.',
        )
    for index, record in enumerate(content):
        yield f"{file}, record {index}", record


def _from_csv(file: Path) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(sys.maxsize)  # articles are longer than the default of 128 KiB allows
    with file.open(encoding="utf-8-sig", newline="") as lines:
        for number, record in enumerate(csv.DictReader(lines), start=1):
            yield f"{file}, record {number}", record


def _from_parquet(file: Path) -> Iterator[tuple[str, Any]]:
    parquet = require("pyarrow.parquet", extra="lab", purpose="read Parquet files")
    yield from _from_batches(file, lambda: parquet.ParquetFile(file).iter_batches(batch_size=64))


def _from_arrow(file: Path) -> Iterator[tuple[str, Any]]:
    arrow = require("pyarrow", extra="lab", purpose="read Arrow files")
    yield from _from_batches(file, lambda: arrow.ipc.open_stream(file))


def _from_batches(file: Path, opened: Any) -> Iterator[tuple[str, Any]]:
    import pyarrow

    index = 0
    try:
        for batch in opened():
            for record in batch.to_pylist():
                yield f"{file}, record {index}", record
                index += 1
    except pyarrow.ArrowException as error:
        raise EvaluationError(
            "The file is damaged or of another format.",
            where=str(file),
            remedy="Download it again.",
            details=str(error),
        ) from error


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise EvaluationError(
            f"This is not JSON: {error.msg} at column {error.colno}.", where=where, remedy="Write the file again."
        ) from error


def _article(record: Any, where: str, index: int) -> Article:
    if not isinstance(record, Mapping):
        raise EvaluationError(f"The record is a {type(record).__name__}, not an object.", where=where)
    for key in ("article", "highlights"):
        value = record.get(key)
        if not isinstance(value, str) or not value.strip():
            raise EvaluationError(
                f"The record has no text in the field {key!r}."
                + (f" Its fields: {', '.join(map(str, record))}." if key not in record else ""),
                where=where,
                remedy="Records need 'article' and 'highlights' (the cnn_dailymail schema).",
            )
    return Article(
        article=record["article"],
        highlights=record["highlights"],
        id=str(record.get("id", index)),
        entities=_entities(record.get("entities"), where),
    )


def _entities(value: Any, where: str) -> list[str]:
    if isinstance(value, str) and value.strip().startswith("["):
        value = _parsed(value, where)  # a list in a CSV cell
    if value in (None, ""):
        return []
    if not isinstance(value, Iterable) or isinstance(value, str) or not all(isinstance(item, str) for item in value):
        raise EvaluationError(
            "The field 'entities' is not a list of texts.", where=where, remedy='Write ["Ann Lee", "2 May"].'
        )
    return list(value)
