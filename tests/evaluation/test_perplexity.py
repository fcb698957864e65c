"""Perplexity against Hugging Face's own loss, windows by hand."""

from __future__ import annotations

import math

import pytest
import torch
from tests.evaluation.tiny_sides import disturbed_sides, equal_sides, word_tokenizer, words
from tests.runtime.tiny_models import prompts

from trtbench_lab.errors import EvaluationError
from trtbench_lab.evaluation.perplexity import PerplexityResult, perplexity, windows_of
from trtbench_lab.results import Result


def hf_loss(model, ids: list[int]) -> float:
    """Mean negative log-likelihood as transformers computes it."""
    row = torch.tensor([ids])
    with torch.no_grad():
        return float(model(row, labels=row).loss)


def test_one_text_in_one_window_is_hugging_faces_loss():
    engine, hf = equal_sides()
    (ids,) = prompts(40)
    result = perplexity(engine, hf, [ids])
    # exp magnifies the loss' error of some 1e-6; perplexities of a random model here are about e^10
    assert result.hf_perplexity == pytest.approx(math.exp(hf_loss(hf.model, ids)), rel=1e-4)
    assert result.engine_perplexity == pytest.approx(result.hf_perplexity, rel=1e-4)
    assert result.num_tokens == 39
    assert result.top1_agreement == 100.0
    assert result.max_abs_logit_difference < 1e-4


def test_several_texts_are_weighted_by_tokens():
    engine, hf = equal_sides()
    batch = prompts(30, 5, 12)
    result = perplexity(engine, hf, batch)
    total = sum(hf_loss(hf.model, ids) * (len(ids) - 1) for ids in batch)
    assert result.hf_perplexity == pytest.approx(math.exp(total / 44), rel=1e-4)
    assert (result.num_texts, result.num_tokens) == (3, 44)


def test_windows_score_each_token_once_with_context():
    engine, hf = equal_sides()
    (ids,) = prompts(40)
    result = perplexity(engine, None, [ids], window=16, stride=10)
    losses = []
    with torch.no_grad():
        for begin, end, first in ((0, 16, 1), (10, 26, 16), (20, 36, 26), (30, 40, 36)):
            logits = hf.model(torch.tensor([ids[begin:end]])).logits[0].log_softmax(-1)
            losses += [-float(logits[i - 1 - begin, ids[i]]) for i in range(first, end)]
    assert len(losses) == 39 == result.num_tokens
    assert result.engine_perplexity == pytest.approx(math.exp(sum(losses) / 39), rel=1e-4)
    assert result.hf_perplexity is None
    assert result.top1_agreement is None


@pytest.mark.parametrize("length", [2, 9, 10, 11, 25, 100])
@pytest.mark.parametrize(("window", "stride"), [(10, 5), (10, 9), (10, 1), (100, 50)])
def test_windows_cover_every_position_once(length, window, stride):
    scored = []
    for begin, end, first in windows_of(length, window, stride):
        assert 0 < end - begin <= window
        assert begin < first < end
        scored += range(first, end)
    assert scored == list(range(1, length))


def test_a_disturbed_engine_is_told_from_hugging_face():
    engine, hf = disturbed_sides()
    (ids,) = prompts(60)
    result = perplexity(engine, hf, [ids])
    with torch.no_grad():
        expected = hf.model(torch.tensor([ids[:-1]])).logits[0]
        noisy = engine.session.executor.model(torch.tensor([ids[:-1]])).logits[0]
    agreement = (expected.argmax(-1) == noisy.argmax(-1)).double().mean()
    assert result.top1_agreement == pytest.approx(100 * float(agreement))
    assert result.top1_agreement < 100
    assert result.max_abs_logit_difference == pytest.approx(float((expected - noisy).abs().max()), abs=1e-4)
    assert result.mean_abs_logit_difference == pytest.approx(float((expected - noisy).abs().mean()), abs=1e-5)
    right = (noisy.argmax(-1) == torch.tensor(ids[1:])).double().mean()
    assert result.engine_top1_accuracy == pytest.approx(100 * float(right))


def test_texts_are_encoded_and_results_survive_storage():
    engine, hf = equal_sides()
    result = perplexity(engine, hf, [words(1, 2, 3, 4), ""], tokenizer=word_tokenizer(), name="mine")
    assert result.num_texts == 1
    again = Result.from_dict(result.to_dict())
    assert isinstance(again, PerplexityResult)
    assert again.metrics == result.metrics
    assert "perplexity" in repr(result)
    assert "engine (torch)" in result._repr_html_()


@pytest.mark.parametrize(
    ("texts", "options", "words_of_error"),
    [
        ([[1]], {}, "two tokens"),
        ([], {}, "two tokens"),
        ("w1 w2", {}, "one text"),
        (["w1 w2"], {"tokenizer": None}, "no tokenizer"),
        ([[1, 2]], {"window": 1}, "window of 1"),
        ([[1, 2]], {"window": 4000}, "Use 2 to 128"),
        ([[1, 2]], {"window": 8, "stride": 8}, "stride of 8"),
        ([[1, 2]], {"stride": 0}, "stride of 0"),
    ],
)
def test_mistakes_are_sentences(texts, options, words_of_error):
    with pytest.raises(EvaluationError, match=words_of_error):
        perplexity(*equal_sides(), texts, **{"tokenizer": word_tokenizer(), **options})
