"""Articles from every form of file and folder, and a sentence for each that is wrong."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from trtbench_lab.errors import EvaluationError, MissingPackageError
from trtbench_lab.evaluation.articles import load_articles

RECORDS = [
    {
        "article": f"Ann met Bob.\nIt was “day” {i}.",
        "highlights": f"Day {i}.",
        "id": f"a{i}",
        "entities": ["Ann", "Bob"],
    }
    for i in range(4)
]


def write(path: Path, records: list[dict] = RECORDS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(records), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as lines:
            writer = csv.DictWriter(lines, fieldnames=list(records[0]))
            writer.writeheader()
            writer.writerows({**r, "entities": json.dumps(r["entities"])} for r in records)
    else:
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.Table.from_pylist(records)
        if path.suffix == ".parquet":
            pyarrow.parquet.write_table(table, path)
        else:
            with pyarrow.ipc.new_stream(str(path), table.schema) as stream:
                stream.write_table(table)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet", ".arrow"])
def test_every_form_gives_the_same_articles(tmp_path, suffix):
    found = load_articles(write(tmp_path / f"news{suffix}"), count=3)
    assert [article.id for article in found.articles] == ["a0", "a1", "a2"]
    assert found.articles[1].article == RECORDS[1]["article"]
    assert found.articles[1].highlights == "Day 1."
    assert found.articles[1].entities == ["Ann", "Bob"]
    assert found.has_entities


@pytest.mark.parametrize(
    "name",
    [
        "test.jsonl",
        "3.0.0/test-00000-of-00001.parquet",
        "data/test-00000-of-00002.parquet",
        "test/data-00000-of-00001.arrow",
        "data-00000-of-00001.arrow",
    ],
)
def test_dataset_folders(tmp_path, name):
    write(tmp_path / "set" / name)
    if "test" in name:
        write(tmp_path / "set" / name.replace("test", "train"), RECORDS[:1])
    (tmp_path / "set" / "dataset_info.json").write_text("{}")
    assert len(load_articles(tmp_path / "set", count=4).articles) == 4


def test_the_parts_of_a_split_are_read_in_order(tmp_path):
    for part in range(2):
        write(tmp_path / f"test-0000{part}-of-00002.parquet", RECORDS[2 * part : 2 * part + 2])
    assert [a.id for a in load_articles(tmp_path, count=4).articles] == ["a0", "a1", "a2", "a3"]


def test_the_same_records_in_two_forms_are_read_once(tmp_path):
    write(tmp_path / "test.csv", RECORDS[:2])
    write(tmp_path / "test.jsonl", RECORDS[:2])
    with pytest.raises(EvaluationError, match="4 articles were asked for and there are 2"):
        load_articles(tmp_path, count=4)


def test_the_demo_corpus_is_the_default():
    found = load_articles(count=3)
    assert len(found.articles) == 3
    assert found.has_entities
    assert "TL;DR" not in found.articles[0].article


def test_records_without_id_and_entities(tmp_path):
    records = [{"article": r["article"], "highlights": r["highlights"]} for r in RECORDS]
    found = load_articles(write(tmp_path / "news.jsonl", records), count=2)
    assert [a.id for a in found.articles] == ["0", "1"]
    assert not found.has_entities


def test_a_json_file_may_wrap_its_list(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"version": "1", "data": RECORDS}))
    assert len(load_articles(tmp_path / "x.json", count=4).articles) == 4


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no article in it"),
        ("\n\n", "no article in it"),
        ("{not json\n", "line 1: This is not JSON"),
        ("[1, 2]\n", "list, not an object"),
        ('{"text": "a", "summary": "b"}\n', "Its fields: text, summary"),
        ('{"article": "a"}\n', "'highlights'"),
        ('{"article": "", "highlights": "b"}\n', "no text in the field 'article'"),
        ('{"article": 5, "highlights": "b"}\n', "no text in the field 'article'"),
        ('{"article": "a", "highlights": "b", "entities": [5]}\n', "'entities' is not a list of texts"),
        ('{"article": "a", "highlights": "b", "entities": "Ann"}\n', "'entities' is not a list of texts"),
        ('{"article": "a", "highlights": "b"}\n', "2 articles were asked for and there are 1"),
    ],
)
def test_bad_lines_are_sentences(tmp_path, content, words):
    path = tmp_path / "news.jsonl"
    path.write_text(content)
    with pytest.raises(EvaluationError) as caught:
        load_articles(path, count=2)
    assert words in str(caught.value)
    assert "news.jsonl" in str(caught.value)


def test_bad_files_are_sentences(tmp_path):
    with pytest.raises(EvaluationError, match="no such file"):
        load_articles(tmp_path / "none.jsonl")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(EvaluationError, match=r"type \.txt"):
        load_articles(tmp_path / "a.txt")
    (tmp_path / "latin.jsonl").write_bytes(b'{"article": "\xe9"}')
    with pytest.raises(EvaluationError, match="not UTF-8"):
        load_articles(tmp_path / "latin.jsonl")
    (tmp_path / "x.json").write_text('{"a": 1}')
    with pytest.raises(EvaluationError, match="not a list of records"):
        load_articles(tmp_path / "x.json")
    for suffix in (".parquet", ".arrow"):
        (tmp_path / f"broken{suffix}").write_bytes(b"PAR1 not really")
        with pytest.raises(EvaluationError, match="damaged"):
            load_articles(tmp_path / f"broken{suffix}")
    with pytest.raises(EvaluationError, match="0 articles"):
        load_articles(count=0)


def test_a_folder_without_the_split_names_those_it_has(tmp_path):
    write(tmp_path / "set" / "validation.jsonl")
    with pytest.raises(EvaluationError, match="validation"):
        load_articles(tmp_path / "set", split="test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match=r"Put a test\.jsonl"):
        load_articles(tmp_path / "empty", split="test")


def test_parquet_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    import importlib

    path = write(tmp_path / "news.parquet")
    real = importlib.import_module

    def without_pyarrow(name: str, package: str | None = None):
        if name.startswith("pyarrow"):
            raise ModuleNotFoundError(f"No module named {name!r}", name="pyarrow")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", without_pyarrow)
    with pytest.raises(MissingPackageError, match=r"trtbench-lab\[lab\]"):
        load_articles(path, count=1)


def test_texts_of_any_usual_field_are_read(tmp_path: Path) -> None:
    from trtbench_lab.evaluation.articles import load_texts

    lines = [{"article": "A", "highlights": "B"}, {"text": "C"}, {"prompt": "D", "text": 3}, "E"]
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    assert load_texts(path) == ["A\nB", "C", "D", "E"]
    plain = tmp_path / "all.txt"
    plain.write_text("one\ntwo", encoding="utf-8")
    assert load_texts(plain) == ["one\ntwo"]
    assert len(load_texts()) == 200  # the demo corpus' validation split
    path.write_text('{"title": "only"}')
    with pytest.raises(EvaluationError, match=r"no text\. Its fields: title"):
        load_texts(path)
    path.write_text("")
    with pytest.raises(EvaluationError, match="no text in it"):
        load_texts(path)


def test_a_folder_without_the_split_gives_another(tmp_path: Path) -> None:
    from trtbench_lab.evaluation.articles import load_texts

    (tmp_path / "train.jsonl").write_text('{"text": "from train"}')
    assert load_texts(tmp_path) == ["from train"]
    (tmp_path / "validation.jsonl").write_text('{"text": "from validation"}')
    assert load_texts(tmp_path) == ["from validation"]
