"""The demo corpus: the same on every machine, names held out, and highlights that the article supports."""

from __future__ import annotations

import re

import pytest

from trtbench_lab.demo import SHIPPED_SPLITS, demo_corpus_path
from trtbench_lab.demo.corpus import (
    SPLITS,
    Record,
    entities,
    entity_accuracy,
    make_prose,
    make_record,
    make_records,
    read_records,
    split_of_word,
    write_records,
)
from trtbench_lab.demo.corpus.records import mentions
from trtbench_lab.demo.corpus.stories import load_asides, load_stories, read_story
from trtbench_lab.errors import TrtbenchError

# Words of entities that are not coined: months, days, and what companies and clubs call themselves.
COMMON_WORDS = """
    January February March April May June July August September October November December Monday Tuesday Wednesday
    Thursday Friday Saturday Sunday Rovers United Athletic Wanderers Rangers Albion Harriers Systems Shipping Foods
    Motors Energy Holdings Textiles Instruments Chemicals Robotics Airways Paper
"""


def coined_words(records: list[Record]) -> set[str]:
    words = {word for record in records for entity in entities(record) for word in re.findall(r"[A-Z][a-z]+", entity)}
    return words - set(COMMON_WORDS.split())


@pytest.fixture(scope="module")
def sample() -> dict[str, list[Record]]:
    return {split: list(make_records(split, 400)) for split in SPLITS}


def test_a_record_depends_on_its_split_index_and_seed_alone() -> None:
    assert make_record("train", 7) == make_record("train", 7)
    assert list(make_records("train", 3, start=6))[1] == make_record("train", 7)
    assert make_record("train", 7)["article"] != make_record("train", 7, seed=1)["article"]
    assert make_record("train", 7)["article"] != make_record("test", 7)["article"]
    assert make_prose("train", 7) == make_prose("train", 7)


@pytest.mark.parametrize("split", SHIPPED_SPLITS)
def test_shipped_files_are_what_the_generator_writes(split: str) -> None:
    shipped = list(read_records(demo_corpus_path(split)))
    assert len(shipped) == 200
    assert shipped == list(make_records(split, 200))


def test_shipped_files_stay_under_a_megabyte() -> None:
    assert sum(demo_corpus_path(split).stat().st_size for split in SHIPPED_SPLITS) < 1_000_000


def test_records_follow_the_cnn_dailymail_schema(sample: dict[str, list[Record]]) -> None:
    for records in sample.values():
        assert all(set(record) == {"article", "highlights", "id", "entities"} for record in records)
        assert all(len(record["highlights"].split("\n")) == 3 for record in records)
    assert len({record["id"] for records in sample.values() for record in records}) == 1200


def test_splits_share_no_name_place_or_organisation(sample: dict[str, list[Record]]) -> None:
    words = {split: coined_words(records) for split, records in sample.items()}
    assert not words["train"] & words["validation"]
    assert not words["train"] & words["test"]
    assert not words["validation"] & words["test"]
    for split, coined in words.items():
        assert {split_of_word(word) for word in coined} == {split}
    assert len(words["train"]) > 1500  # nearly every story brings new names


def test_every_fact_of_the_highlights_stands_in_the_article(sample: dict[str, list[Record]]) -> None:
    for records in sample.values():
        for record in records:
            assert len(record["entities"]) >= 3
            assert all(mentions(record["article"], entity) for entity in record["entities"])
            assert all(mentions(record["highlights"], entity) for entity in record["entities"])


def test_articles_name_people_that_the_highlights_leave_out(sample: dict[str, list[Record]]) -> None:
    # A copy of all names must not pass for a summary: there are about as many names to leave out as to keep.
    names = re.compile(r"\b[A-Z][a-z]+ [A-Z][a-z]+\b")
    left_out = [len(set(names.findall(r["article"])) - set(names.findall(r["highlights"]))) for r in sample["train"]]
    assert sum(left_out) / len(left_out) > 3


def test_no_wording_leaves_marks_of_the_template(sample: dict[str, list[Record]]) -> None:
    texts = [record["article"] + record["highlights"] for records in sample.values() for record in records]
    texts += [make_prose("train", index) for index in range(300)]
    for text in texts:
        assert text.isascii()
        assert not re.search(r"[{}\[\]|]|  | \.|\.\.", text), text


def test_every_template_file_is_used() -> None:
    assert len(load_stories()) == 16
    assert len(load_stories(prose=True)) == 5
    assert all(len(story.angles) == 2 for story in load_stories())
    assert len(load_asides().details) > 20


def test_entity_accuracy_counts_exact_whole_words() -> None:
    record = Record(article="", highlights="", id="", entities=["2 May", "Ada Tell"])
    assert entity_accuracy(["Ada Tell came on 2 May."], [record]) == 100.0
    assert entity_accuracy(["Ada Tell came on 12 May."], [record]) == 50.0
    assert entity_accuracy(["Ada Teller came on 2 Mayday."], [record]) == 0.0


def test_entity_accuracy_of_the_opening_sentences_is_low() -> None:
    records = list(read_records(demo_corpus_path("test")))
    assert entity_accuracy([record["highlights"] for record in records], records) == 100.0
    opening = [". ".join(record["article"].split(". ")[:2]) for record in records]
    assert entity_accuracy(opening, records) < 80


def test_entity_accuracy_refuses_what_it_cannot_measure() -> None:
    record = make_record("test", 0)
    with pytest.raises(TrtbenchError, match="0 summaries for 1 records"):
        entity_accuracy([], [record])
    with pytest.raises(TrtbenchError, match="no entities"):
        entity_accuracy([""], [record | {"entities": []}])  # type: ignore[list-item]


def test_records_survive_writing_and_a_broken_line_is_named(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "records.jsonl"
    assert write_records(path, make_records("test", 3)) == 3
    assert list(read_records(path)) == list(make_records("test", 3))
    path.write_text(path.read_text() + '{"article": \n')
    with pytest.raises(TrtbenchError, match="Line 4"):
        list(read_records(path))


@pytest.mark.parametrize(
    ("lead", "highlight", "problem"),
    [
        ("A man came.", "It was {who}.", "may go untold"),
        ("A man called {who.last} came.", "It was {who}.", "may go untold"),
        ("{who} came.", "It was {who}.", "A lead opens"),
        ("Here is {who}.", "{who} came.", "opens with the fact"),
        ("Here is {who}.", "It was [{who}|nobody].", "free choice"),
        ("Here is {who}.", "It was {who} in {town}.", "not declared"),
        ("Here is {who}.", "It was {who}.\nNobody came.", "different slots"),
    ],
)
def test_a_template_that_breaks_a_rule_is_refused(tmp_path, lead: str, highlight: str, problem: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "story.toml"
    path.write_text(
        f"[[angle]]\nlead = '''\n{lead}\n'''\nhighlights = ['''\n{highlight}\n''']\n[slots]\nwho = \"person\"\n"
    )
    with pytest.raises(TrtbenchError, match=problem):
        read_story(path)
