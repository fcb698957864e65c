"""Entity accuracy on hand-written summaries."""

from __future__ import annotations

import pytest

from trtbench_lab.errors import EvaluationError
from trtbench_lab.evaluation.entities import entities_found, entity_accuracy, holds_entity


@pytest.mark.parametrize(
    ("text", "entity", "held"),
    [
        ("Opened on 2 May by Ann Lee.", "2 May", True),
        ("Opened on 12 May.", "2 May", False),
        ("Ann Leeson spoke.", "Ann Lee", False),
        ("ann lee spoke.", "Ann Lee", False),
        ("It cost $3.5 million.", "$3.5 million", True),
        ("It cost 3x5 million.", "3.5 million", False),
        ("Zoë's car", "Zoë", True),
    ],
)
def test_an_entity_must_stand_exactly_and_whole(text, entity, held):
    assert holds_entity(text, entity) is held


def test_shares_are_over_all_entities_not_over_articles():
    summaries = ["Ann met Bob.", "Nobody came."]
    expected = [["Ann", "Bob", "Cleo"], ["Dora"]]
    assert entities_found(summaries[0], expected[0]) == 2
    assert entity_accuracy(summaries, expected) == 50.0


def test_none_found_is_a_true_zero_and_none_expected_is_no_number():
    assert entity_accuracy(["x"], [["Ann"]]) == 0.0
    assert entity_accuracy(["x"], [[]]) is None


def test_lists_of_different_length_are_refused():
    with pytest.raises(EvaluationError, match="1 summaries for 2"):
        entity_accuracy(["x"], [[], []])


def test_the_demo_corpus_measures_the_same():
    """The demo model's card states an accuracy by the corpus' own function; the two must be one measure."""
    from trtbench_lab.demo.corpus import entity_accuracy as corpus_accuracy
    from trtbench_lab.demo.corpus import make_records

    records = list(make_records("test", 20))
    summaries = [record["highlights"].replace("a", "e", 9) for record in records]
    ours = entity_accuracy(summaries, [record["entities"] for record in records])
    assert ours == pytest.approx(corpus_accuracy(summaries, records))
    assert 0 < ours < 100
