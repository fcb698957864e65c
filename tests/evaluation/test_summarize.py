"""Summarisation: prompts, both sides' scores, times, the verdict, and texts kept."""

from __future__ import annotations

import pytest
from rouge_score.rouge_scorer import RougeScorer
from tests.evaluation.tiny_sides import disturbed_sides, equal_sides, word_tokenizer, words
from tests.runtime.tiny_models import VOCAB_SIZE, tiny_runner

from trtbench_lab.errors import EvaluationError
from trtbench_lab.evaluation.articles import Article, ArticleSet
from trtbench_lab.evaluation.summarize import summarize, summary_prompts
from trtbench_lab.evaluation.summarize_result import SummarizeResult
from trtbench_lab.results import Result
from trtbench_lab.runtime import EngineLimits, ModelRunner
from trtbench_lab.runtime.text import new_tokens_of
from trtbench_lab.specs import SamplingConfig

SAMPLING = SamplingConfig(max_new_tokens=6)
TLDR = VOCAB_SIZE - 2


def article_set(*bodies: list[int], highlights: str = "w1 w2", entities: bool = True) -> ArticleSet:
    articles = [
        Article(article=words(*body), highlights=highlights, id=str(i), entities=["w1", "w50"] if entities else [])
        for i, body in enumerate(bodies)
    ]
    return ArticleSet(articles=articles, source="here", split="test", has_entities=entities)


ARTICLES = article_set([3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7])


@pytest.fixture(scope="module")
def both() -> SummarizeResult:
    return summarize(*disturbed_sides(), ARTICLES, word_tokenizer(), SAMPLING, threshold=14.0)


def test_the_prompt_is_article_and_ending():
    prompts = summary_prompts(word_tokenizer(), ARTICLES.articles[:1], append_text=" TL;DR: ", room=100)
    assert prompts == [[3, 1, 4, 1, 5, TLDR]]


@pytest.mark.parametrize(("room", "expected"), [(6, [3, 1, 4, 1, 5, TLDR]), (4, [3, 1, 4, TLDR]), (2, [3, TLDR])])
def test_a_long_article_is_cut_and_the_ending_stays(room, expected):
    assert summary_prompts(word_tokenizer(), ARTICLES.articles[:1], append_text=" TL;DR: ", room=room) == [expected]


def test_no_room_for_an_article_is_a_sentence():
    with pytest.raises(EvaluationError, match="no room for an article"):
        summary_prompts(word_tokenizer(), ARTICLES.articles, append_text=" TL;DR: ", room=1)


def test_texts_are_the_models_own(both):
    engine, hf = disturbed_sides()
    tokenizer = word_tokenizer()
    for article, outcome in zip(ARTICLES.articles, both.articles, strict=True):
        prompt = tokenizer.encode(article.article + " TL;DR: ")
        for side, texts in ((engine, outcome.engine_texts), (hf, outcome.hf_texts)):
            outputs = side.generate([prompt], max_new_tokens=6, end_id=tokenizer.eos_token_id)
            assert texts == [tokenizer.decode(new_tokens_of(outputs, 0))]
        assert outcome.prompt_tokens == len(prompt)
        assert outcome.reference == "w1 w2"


def test_scores_are_rouge_scores_of_the_kept_texts(both):
    scorer = RougeScorer(["rouge1", "rougeL"])
    for side, texts in ((both.engine, [a.engine_texts[0] for a in both.articles]), (both.hf, None)):
        texts = texts or [a.hf_texts[0] for a in both.articles]
        expected = [100 * scorer.score("w1 w2", text)["rouge1"].fmeasure for text in texts]
        assert side.rouge[0].per_article["rouge1"] == pytest.approx(expected)
        assert side.rouge[0].intervals["rouge1"].mean == pytest.approx(sum(expected) / 3)


def test_entities_are_counted_where_the_articles_have_them(both):
    held = sum(f" {name} " in f" {a.engine_texts[0]} " for a in both.articles for name in ("w1", "w50"))
    assert both.engine.entity_accuracy == [pytest.approx(100 * held / 6)]
    plain = summarize(equal_sides()[0], None, article_set([3, 1], entities=False), word_tokenizer(), SAMPLING)
    assert plain.engine.entity_accuracy == [None]


def test_times_and_tokens(both):
    metrics = both.metrics
    for side, prefix in ((both.engine, "engine"), (both.hf, "hf")):
        assert len(side.batch_latency_ms) == 3
        assert side.output_tokens == 18
        assert metrics[f"{prefix}_total_latency_s"] == pytest.approx(sum(side.batch_latency_ms) / 1e3)
        assert metrics[f"{prefix}_tokens_per_sec"] == pytest.approx(18 / metrics[f"{prefix}_total_latency_s"])
    assert metrics["speedup"] == pytest.approx(metrics["engine_tokens_per_sec"] / metrics["hf_tokens_per_sec"])


def test_end_tokens_are_not_output_tokens():
    engine, _ = equal_sides()
    tokenizer = word_tokenizer()
    free = engine.generate([tokenizer.encode(ARTICLES.articles[0].article + " TL;DR: ")], max_new_tokens=6)
    sampling = SAMPLING.replace(end_id=new_tokens_of(free, 0)[2])
    articles = ArticleSet(articles=ARTICLES.articles[:1], source="", split="", has_entities=False)
    result = summarize(engine, None, articles, tokenizer, sampling)
    expected = new_tokens_of(
        engine.generate([tokenizer.encode(articles.articles[0].article + " TL;DR: ")], sampling), 0
    )
    assert result.engine.output_tokens == len(expected) < 6


def test_lines_have_the_form_people_know_and_the_name_of_what_ran(both):
    lines = both.lines()
    assert lines[0] == f"torch engine (total latency: {both.engine.total_latency_s} sec)"
    assert lines[1] == "torch engine (total output tokens: 18)"
    assert lines[2] == f"torch engine (tokens per second: {both.engine.tokens_per_sec})"
    assert lines[3] == "torch engine beam 0 result"
    assert lines[4] == f"  rouge1: {both.engine.rouge[0].score('rouge1')}"
    assert f"Hugging Face (total latency: {both.hf.total_latency_s} sec)" in lines
    assert not any("TensorRT" in line for line in lines)


def test_the_verdict_compares_with_the_threshold(both):
    rouge1 = both.engine.rouge[0].score("rouge1")
    for threshold, passed in ((rouge1 - 1, True), (rouge1, False), (rouge1 + 1, False)):
        result = both.replace(threshold=threshold)
        assert result.passed is passed
        assert ("PASSED" in result.verdict) is passed
        assert f"{rouge1:.2f}" in result.verdict
        assert result.verdict in repr(result)
    both.replace(threshold=rouge1 - 1).check_accuracy()
    with pytest.raises(EvaluationError, match="FAILED"):
        both.replace(threshold=rouge1 + 1).check_accuracy()


def test_without_an_engine_there_is_no_verdict():
    result = summarize(None, equal_sides()[1], ARTICLES, word_tokenizer(), SAMPLING)
    assert result.backend == "huggingface"
    assert result.passed is None
    assert "not checked" in result.verdict
    assert result.articles[0].engine_texts == []
    with pytest.raises(EvaluationError, match="not checked"):
        result.check_accuracy()


def test_every_beam_is_scored():
    sampling = SAMPLING.replace(num_beams=2)
    result = summarize(*equal_sides(), ARTICLES, word_tokenizer(), sampling)
    for side in (result.engine, result.hf):
        assert len(side.rouge) == len(side.entity_accuracy) == 2
    assert [a.engine_texts for a in result.articles] == [a.hf_texts for a in result.articles]
    assert all(len(a.engine_texts) == 2 for a in result.articles)
    assert "torch engine beam 1 result" in result.lines()


def test_batches_give_the_same_texts():
    alone = summarize(*equal_sides(), ARTICLES, word_tokenizer(), SAMPLING)
    together = summarize(*equal_sides(), ARTICLES, word_tokenizer(), SAMPLING, batch_size=2)
    assert [a.engine_texts for a in alone.articles] == [a.engine_texts for a in together.articles]
    assert [a.hf_texts for a in alone.articles] == [a.hf_texts for a in together.articles]
    assert len(together.engine.batch_latency_ms) == 2


def test_prompts_fit_the_engine():
    model = equal_sides()[1].model
    small = tiny_runner(model, limits={"max_input_len": 10, "max_seq_len": 10})
    result = summarize(small, None, article_set([1] * 30), word_tokenizer(), SAMPLING)
    assert result.articles[0].prompt_tokens == 4  # 10 − 6 new tokens
    assert result.spec["max_input_length"] == 4


def test_no_resampling_gives_means_without_intervals():
    result = summarize(equal_sides()[0], None, ARTICLES, word_tokenizer(), SAMPLING, bootstrap_samples=0)
    assert result.metrics["engine_rouge1_low"] is None
    assert result.engine.rouge[0].intervals["rouge1"].score == result.engine.rouge[0].intervals["rouge1"].mean
    assert "bootstrap" not in repr(result)


def test_results_survive_storage(both):
    again = Result.from_dict(both.to_dict())
    assert isinstance(again, SummarizeResult)
    assert again == both
    assert again.lines() == both.lines()
    assert "engine" in both._repr_html_()


def test_progress_counts_articles():
    events = []
    summarize(equal_sides()[0], None, ARTICLES, word_tokenizer(), SAMPLING, batch_size=2, progress=events.append)
    assert (events[-1].state, events[-1].done, events[-1].total) == ("done", 3, 3)


def test_mistakes_are_sentences():
    engine, hf = equal_sides()
    with pytest.raises(EvaluationError, match="Neither"):
        summarize(None, None, ARTICLES, word_tokenizer())
    with pytest.raises(EvaluationError, match="batch of 0"):
        summarize(engine, hf, ARTICLES, word_tokenizer(), batch_size=0)
    other = ModelRunner(engine.session.executor, EngineLimits(vocab_size=50))
    with pytest.raises(EvaluationError, match="vocabulary"):
        summarize(other, hf, ARTICLES, word_tokenizer())
