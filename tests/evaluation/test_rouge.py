"""ROUGE against the rouge-score package used the way TensorRT-LLM's script does, and against hand-counted words."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.scoring import BootstrapAggregator

from trtbench_lab.errors import EvaluationError, MissingPackageError
from trtbench_lab.evaluation.rouge import ROUGE_TYPES, rouge_scores

REFERENCES = [
    "The cat sat on the mat.\nIt was a sunny day.",
    "Mayor Lee opened the new bridge on 2 May.",
    "Prices are rising faster than wages.",
    "Two trains were late.",
]
PREDICTIONS = [
    "The cat was sitting on a mat.\nThe day was sunny.",
    "The new bridge was opened by Mayor Lee.",
    "Wages rise.",
    "",
]


def test_aggregates_are_those_of_rouge_score():
    """Scorer and aggregator as Hugging Face's evaluate puts them together: no stemmer, middle of the bootstrap."""
    scorer, aggregator = RougeScorer(list(ROUGE_TYPES), use_stemmer=False), BootstrapAggregator()
    for reference, prediction in zip(REFERENCES, PREDICTIONS, strict=True):
        aggregator.add_scores(scorer.score(reference, prediction))
    np.random.seed(0)  # noqa: NPY002 - as the script does
    theirs = aggregator.aggregate()
    ours = rouge_scores(PREDICTIONS, REFERENCES)
    for name in ROUGE_TYPES:
        interval = ours.intervals[name]
        expected = theirs[name]
        assert ours.score(name) == pytest.approx(100 * expected.mid.fmeasure, rel=1e-9)
        assert interval.low == pytest.approx(100 * expected.low.fmeasure, rel=1e-9)
        assert interval.high == pytest.approx(100 * expected.high.fmeasure, rel=1e-9)
        assert interval.n == 4


def test_hand_counted_words():
    """8 words each; the, new, bridge, opened, mayor and lee are in both: F1 = 2·6 / (8 + 8)."""
    scores = rouge_scores(["the new bridge was opened by mayor lee"], ["mayor lee opened the new bridge on may"])
    assert scores.per_article["rouge1"] == [pytest.approx(100 * 2 * 6 / (8 + 8))]
    # pairs in common: "the new", "new bridge", "mayor lee" of 7 and 7
    assert scores.per_article["rouge2"] == [pytest.approx(100 * 3 / 7)]
    # longest common subsequence: "the new bridge"
    assert scores.per_article["rougeL"] == [pytest.approx(100 * 3 / 8)]


def test_stemming_is_off_unless_asked_for():
    plain = rouge_scores(["prices rise"], ["price rises"])
    stemmed = rouge_scores(["prices rise"], ["price rises"], use_stemmer=True)
    assert plain.score("rouge1") == 0.0
    assert stemmed.score("rouge1") == 100.0


def test_line_breaks_part_sentences_for_rouge_lsum():
    scores = rouge_scores(["b c\na d"], ["a d\nb c"])
    assert scores.score("rougeLsum") == pytest.approx(100.0)
    assert scores.score("rougeL") == pytest.approx(50.0)


def test_an_empty_summary_scores_zero():
    assert rouge_scores([""], ["some words"]).per_article == {name: [0.0] for name in ROUGE_TYPES}


def test_chosen_scores_and_no_resampling():
    scores = rouge_scores(PREDICTIONS, REFERENCES, rouge_types=("rougeL",), resamples=0)
    assert list(scores.intervals) == ["rougeL"]
    assert scores.score("rougeL") == pytest.approx(sum(scores.per_article["rougeL"]) / 4)


@pytest.mark.parametrize(
    ("predictions", "references", "options", "words"),
    [
        ([], [], {}, "no summaries"),
        (["a"], ["a", "b"], {}, "1 summaries for 2 references"),
        (["a"], ["a"], {"rouge_types": ("rouge9",)}, "rouge9"),
        (["a"], ["a"], {"rouge_types": ()}, "No ROUGE"),
    ],
)
def test_mistakes_are_sentences(predictions, references, options, words):
    with pytest.raises(EvaluationError, match=words):
        rouge_scores(predictions, references, **options)


def test_a_missing_package_is_an_error_and_never_a_zero(monkeypatch):
    for module in [name for name in sys.modules if name.startswith("rouge_score")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    with pytest.raises(MissingPackageError, match="pip install rouge-score"):
        rouge_scores(["a"], ["a"])
