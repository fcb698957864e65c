"""Quality against a baseline: numbers against NumPy and hand calculation, intervals, limits and their verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trtbench_lab.errors import EvaluationError, SpecError
from trtbench_lab.evaluation.articles import Article, ArticleSet
from trtbench_lab.evaluation.gate import FAILED, NOT_SHOWN, PASSED, gate_outcome
from trtbench_lab.evaluation.paired import Bootstrap, paired_metric
from trtbench_lab.evaluation.quality import quality
from trtbench_lab.evaluation.token_quality import scored_windows, window_scores
from trtbench_lab.results import Result
from trtbench_lab.specs import MaxDrop, QualityConfig

from .tiny_sides import disturbed_sides, equal_sides, word_tokenizer, words

TEXTS = [[(3 * i + k) % 94 for i in range(20)] for k in range(12)]
ALL_TOKENS = QualityConfig(metrics=("perplexity", "top1", "kl"), eval_window=16)


def means(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns 1 and 2 over column 0."""
    return sums[..., 1] / sums[..., 0], sums[..., 2] / sums[..., 0]


def test_a_window_against_numpy() -> None:
    random = np.random.default_rng(0)
    a, b, targets = random.normal(size=(7, 11)), random.normal(size=(7, 11)), random.integers(0, 11, 7)
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (b, a))
    found = window_scores(torch.tensor(a), torch.tensor(b), torch.tensor(targets))
    assert found.nll == pytest.approx(-np.log(q[np.arange(7), targets]).sum())
    assert found.baseline_nll == pytest.approx(-np.log(p[np.arange(7), targets]).sum())
    assert found.kl == pytest.approx((p * np.log(p / q)).sum())
    assert found.agreeing == int((a.argmax(-1) == b.argmax(-1)).sum())


def test_windows_score_each_token_once_and_stop_at_the_amount() -> None:
    scored = [(n, t) for n, _, end, first in scored_windows([20, 9], window=8, tokens=1000) for t in range(first, end)]
    assert scored == [(0, t) for t in range(1, 20)] + [(1, t) for t in range(1, 9)]
    assert sum(end - first for _, _, end, first in scored_windows([20, 9], window=8, tokens=10)) == 10


def test_a_model_loses_nothing_against_itself() -> None:
    runner, hf = equal_sides()
    result = quality(runner, hf, TEXTS, ALL_TOKENS.replace(max_drop={"perplexity": "0.01%", "kl": 1e-6, "top1": 0}))
    assert result.metric("perplexity").relative == pytest.approx(0, abs=1e-4)
    assert result.metric("kl").value == pytest.approx(0, abs=1e-9)  # float32 logits of two implementations
    assert result.metric("top1").value == 100
    assert (result.passed, result.exit_code) == (True, 0)
    result.check()
    assert Result.from_dict(result.to_dict()) == result
    assert "PASSED" in repr(result)
    assert "PASSED" in result._repr_html_()


def test_a_disturbed_model_fails_its_limits_in_plain_words() -> None:
    runner, hf = disturbed_sides()
    asked = ALL_TOKENS.replace(max_drop={"kl": 1e-4, "top1": 100}, metrics=("perplexity", "speed"))
    result = quality(runner, hf, TEXTS, asked, quantizations=("W4A16", "none"))
    kl = result.metric("kl")
    assert 0 < kl.low < kl.value < kl.high
    assert (result.passed, result.exit_code) == (False, 1)
    assert [gate.outcome for gate in result.gates] == [FAILED, PASSED]
    assert result.verdict.startswith("FAILED: kl is ")
    with pytest.raises(EvaluationError, match=r"at most 0\.0001 nats was allowed"):
        result.check()
    assert result.cost.tpot_ms is not None
    assert result.cost.tpot_ms_low <= result.cost.tpot_ms <= result.cost.tpot_ms_high
    assert result.metrics["baseline_weights_bytes"] == hf.memory()["weights_bytes"]


def test_pairing_takes_out_what_both_sides_share() -> None:
    """Windows differ by nats, the sides by a hundredth: alone the interval is wide, paired it is exact."""
    random = np.random.default_rng(1)
    table = [(10, 10 * h + 0.1, 10 * h) for h in random.uniform(1, 4, 40)]
    found = paired_metric(
        "perplexity", table, lambda s: (np.exp(s[..., 1] / s[..., 0]), np.exp(s[..., 2] / s[..., 0])),
        of="windows", bootstrap=Bootstrap(),
    )  # fmt: skip
    exact = 100 * (math.exp(0.01) - 1)
    assert (found.relative, found.relative_low, found.relative_high) == pytest.approx((exact,) * 3)
    assert found.high / found.low > 1.3


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random, inside = np.random.default_rng(2), 0
    for _ in range(200):
        table = np.column_stack([np.ones(50), random.normal(0.3, 1, 50), np.zeros(50)])
        found = paired_metric("x", table, means, of="windows", bootstrap=Bootstrap(resamples=300))
        inside += found.low <= 0.3 <= found.high
    assert 0.89 <= inside / 200 <= 0.99  # 0.95 with n = 50 and 200 tries: three standard errors are 0.046


@pytest.mark.parametrize(
    ("limit", "outcome"), [(3.0, PASSED), (1.5, NOT_SHOWN), (0.5, FAILED)], ids=["passed", "not shown", "failed"]
)
def test_outcomes_of_a_limit(limit: float, outcome: str) -> None:
    table = [(1.0, 20 - 1.0 - shift, 20.0) for shift in (-3, 3) * 10]
    metric = paired_metric("rouge1", table, means, of="articles", bootstrap=Bootstrap())
    assert metric.drop[0] == pytest.approx(1.0)
    found = gate_outcome(MaxDrop("rouge1", limit, False), metric, 0.95)
    assert found.outcome == outcome
    assert found.sentence.startswith(outcome.upper())
    relative = gate_outcome(MaxDrop("rouge1", 5 * limit, True), metric, 0.95)  # of 20
    assert relative.outcome == outcome


def test_summaries_are_compared_article_by_article() -> None:
    runner, hf = disturbed_sides()
    articles = [
        Article(id=str(k), article=words(*row), highlights=words(*row[:4]), entities=[words(row[0])])
        for k, row in enumerate(TEXTS[:4])
    ]
    asked = QualityConfig(metrics=("rouge", "entities"), max_drop={"entities": 100})
    held = ArticleSet(articles=articles, source="made", split="test", has_entities=True)
    result = quality(runner, hf, TEXTS, asked, tokenizer=word_tokenizer(), articles=held)
    assert [metric.name for metric in result.quality] == ["rouge1", "rouge2", "rougeL", "rougeLsum", "entities"]
    assert {(metric.n, metric.of) for metric in result.quality} == {(4, "articles")}
    assert result.passed


def test_what_cannot_be_measured_is_said() -> None:
    runner, hf = equal_sides()
    with pytest.raises(EvaluationError, match="needs two windows or more"):
        quality(runner, hf, [[1, 2, 3]], ALL_TOKENS)
    with pytest.raises(EvaluationError, match="No measure"):
        quality(runner, hf, TEXTS, QualityConfig())
    for bad, words_ in (({"perplexty": 1}, "perplexity"), ({"top1": "much"}, "no amount"), ({"kl": "1%"}, "nats")):
        with pytest.raises(SpecError, match=words_):
            QualityConfig(max_drop=bad)
