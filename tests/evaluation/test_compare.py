"""Side by side: equal sides agree, disturbed ones part where and how far Hugging Face's own logits say."""

from __future__ import annotations

import pytest
import torch
from tests.evaluation.tiny_sides import disturbed_sides, equal_sides, word_tokenizer, words
from tests.runtime.tiny_models import prompts, tiny_runner

from trtbench_lab.errors import EvaluationError, RequestError
from trtbench_lab.evaluation.compare import CompareResult, compare
from trtbench_lab.evaluation.side_by_side import _token_span
from trtbench_lab.results import Result
from trtbench_lab.runtime import EngineLimits, ModelRunner
from trtbench_lab.specs import SamplingConfig

GREEDY = SamplingConfig(max_new_tokens=8)
TEXTS = [words(3, 14, 15, 92), words(6, 5)]


@pytest.fixture(scope="module")
def equal() -> CompareResult:
    return compare(*equal_sides(), TEXTS, GREEDY, tokenizer=word_tokenizer(), num_runs=3)


@pytest.fixture(scope="module")
def parted() -> CompareResult:
    return compare(*disturbed_sides(), TEXTS, GREEDY, tokenizer=word_tokenizer(), name="noise")


def test_equal_sides_agree(equal):
    assert equal.num_diverged == 0
    for comparison in equal.prompts:
        assert comparison.divergence is None
        assert comparison.engine.tokens == comparison.hf.tokens
        assert comparison.engine.text == comparison.hf.text
        assert comparison.logits.max_abs < 1e-4  # the same float32 model, batched differently
        assert comparison.logits.positions == len(comparison.hf.tokens)
    assert equal.metrics["token_agreement"] == 100.0
    assert equal.metrics["top1_agreement"] == 100.0


def test_times_are_medians_of_all_runs(equal):
    side = equal.prompts[0].engine
    assert len(side.token_ns) == 3
    assert all(len(run) == len(side.tokens) for run in side.token_ns)
    assert side.latency_ms == sorted(run[-1] for run in side.token_ns)[1] / 1e6
    assert side.ttft_ms == sorted(run[0] for run in side.token_ns)[1] / 1e6
    metrics = equal.metrics
    mean = sum(c.engine.latency_ms for c in equal.prompts) / 2
    assert metrics["engine_latency_ms"] == pytest.approx(mean)
    assert metrics["speedup"] == pytest.approx(metrics["engine_tokens_per_sec"] / metrics["hf_tokens_per_sec"])


def test_parted_sides_tell_where_and_by_how_much(parted):
    engine, hf = disturbed_sides()
    assert parted.num_diverged > 0
    for comparison in parted.prompts:
        tokens = comparison.prompt_tokens + comparison.hf.tokens[:-1]
        with torch.no_grad():
            expected = hf.model(torch.tensor([tokens])).logits[0, len(comparison.prompt_tokens) - 1 :]
            noisy = engine.session.executor.model(torch.tensor([tokens])).logits[0, len(comparison.prompt_tokens) - 1 :]
        assert comparison.logits.max_abs == pytest.approx(float((expected - noisy).abs().max()), abs=1e-4)
        assert comparison.logits.mean_abs == pytest.approx(float((expected - noisy).abs().mean()), abs=1e-5)
        where = comparison.divergence
        if where is None:
            continue
        at = where.position
        assert comparison.engine.tokens[:at] == comparison.hf.tokens[:at]
        assert (where.engine_token, where.hf_token) == (comparison.engine.tokens[at], comparison.hf.tokens[at])
        top = expected[at].topk(2).values
        assert where.hf_margin == pytest.approx(float(top[0] - top[1]), abs=1e-4)
        top = noisy[at].topk(2).values
        assert where.engine_margin == pytest.approx(float(top[0] - top[1]), abs=1e-4)
        assert where.hf_alternatives[0].token == where.hf_token
        assert where.engine_alternatives[0].token == where.engine_token
        assert comparison.equal_tokens == at


def test_agreement_counts_tokens_before_the_divergence(parted):
    equal_tokens = sum(c.equal_tokens for c in parted.prompts)
    assert parted.metrics["token_agreement"] == pytest.approx(100 * equal_tokens / 16)
    assert parted.metrics["token_agreement"] < 100
    assert parted.metrics["prompts_diverged"] == parted.num_diverged


def test_memory_is_named(equal):
    kv_heads, layers, head_size, capacity = 2, 2, 8, 32
    assert equal.engine_memory.kv_cache_bytes == 2 * layers * kv_heads * capacity * head_size * 4
    assert equal.hf_memory.weights_bytes == equal.engine_memory.weights_bytes > 0
    assert equal.engine_memory.process_rss_peak_delta_bytes >= 0
    assert equal.hf_memory.kv_cache_bytes is None


def test_without_warm_up_nothing_is_said_of_peaks():
    result = compare(*equal_sides(), prompts(4), SamplingConfig(max_new_tokens=1), warm_up=0)
    assert result.engine_memory.process_rss_peak_delta_bytes is None
    assert result.metrics["engine_tpot_ms"] is None


def test_the_views_name_the_backend_and_mark_the_divergence(parted):
    plain, page = repr(parted), parted._repr_html_()
    at = next(c for c in parted.prompts if c.divergence).divergence
    for text in (plain, page):
        assert "engine (torch)" in text
        assert "TensorRT" not in text
        assert f"First divergence at new token {at.position}" in text
    assert "<mark" in page
    assert at.engine_text in page
    assert "noise" in plain


@pytest.mark.parametrize(
    ("text", "shared", "token_text", "marked"),
    [
        ("moved to Hulm", 9, " Hulm", " Hulm"),  # both tokens begin with the same space
        ("moved to Hulm", 9, "Hulm", "Hulm"),
        ("abcd", 2, "bcd", "bcd"),
        ("abcd efg h", 2, "\ufffd", "cd"),  # a part of a character has no text of its own: the word is marked
        ("abcd", 4, None, ""),
    ],
)
def test_the_mark_covers_the_token(text, shared, token_text, marked):
    begin, end = _token_span(text, shared, token_text)
    assert text[begin:end] == marked


def test_the_views_escape_what_models_write():
    result = compare(*equal_sides(), ["<b>w1</b> w2"], GREEDY, tokenizer=word_tokenizer())
    assert "<b>" not in result._repr_html_()
    assert "&lt;b&gt;" in result._repr_html_()


def test_equal_sides_are_shown_as_equal(equal):
    assert "All 8 tokens are equal." in repr(equal)
    assert "<mark" not in equal._repr_html_()


def test_results_survive_storage(parted):
    again = Result.from_dict(parted.to_dict())
    assert isinstance(again, CompareResult)
    assert again == parted
    assert again.metrics == parted.metrics


def test_token_ids_need_no_tokenizer():
    result = compare(*disturbed_sides(), prompts(5), GREEDY)
    assert result.prompts[0].prompt is None
    assert result.prompts[0].engine.text is None
    assert str(result.prompts[0].engine.tokens[0]) in repr(result)


def test_texts_can_come_with_token_ids():
    result = compare(*equal_sides(), prompts(3), GREEDY, texts=["shown"])
    assert result.prompts[0].prompt == "shown"
    with pytest.raises(EvaluationError, match="2 texts for 1 prompts"):
        compare(*equal_sides(), prompts(3), GREEDY, texts=["a", "b"])


def test_sampling_draws_the_same_on_both_sides():
    sampling = SamplingConfig(max_new_tokens=12, top_k=0, top_p=0.9, temperature=1.2, random_seed=3)
    result = compare(*equal_sides(), prompts(5, 3), sampling)
    assert result.num_diverged == 0
    assert len(set(result.prompts[0].hf.tokens)) > 3


def test_beams_are_compared_by_their_best():
    result = compare(
        *equal_sides(), prompts(5), SamplingConfig(max_new_tokens=6, num_beams=3), tokenizer=word_tokenizer()
    )
    assert result.num_diverged == 0


def test_end_and_padding_come_from_the_tokenizer():
    result = compare(*equal_sides(), TEXTS, GREEDY, tokenizer=word_tokenizer())
    assert result.spec["sampling"]["end_id"] == result.spec["sampling"]["pad_id"] == word_tokenizer().eos_token_id


def test_an_end_token_is_part_of_the_comparison():
    """The engine ends where Hugging Face goes on: the end token itself is the difference."""
    engine, hf = disturbed_sides()
    free = compare(engine, hf, TEXTS, GREEDY, tokenizer=word_tokenizer())
    where = next(c for c in free.prompts if c.divergence)
    sampling = GREEDY.replace(end_id=where.divergence.engine_token)
    ended = compare(engine, hf, [where.prompt], sampling, tokenizer=word_tokenizer()).prompts[0]
    assert ended.divergence.position <= where.divergence.position
    assert ended.engine.finish_reason == "end_id"
    assert ended.engine.tokens[-1] == sampling.end_id


def test_long_prompts_are_cut_alike_on_both_sides():
    engine, hf = equal_sides(limits={"max_input_len": 5})
    result = compare(engine, hf, prompts(9), GREEDY, truncation="left")
    assert result.prompts[0].prompt_tokens == prompts(9)[0][-5:]
    with pytest.raises(RequestError, match="at most 5"):
        compare(engine, hf, prompts(9), GREEDY)


def test_progress_is_told():
    events = []
    compare(*equal_sides(), prompts(4, 3), SamplingConfig(max_new_tokens=1), warm_up=0, progress=events.append)
    assert events[-1].state == "done"
    assert (events[-1].done, events[-1].total) == (2, 2)


@pytest.mark.parametrize(
    ("given", "options", "words_of_error"),
    [
        ([], {}, "no prompts"),
        ("text", {}, "one text"),
        (["w1"], {"tokenizer": None}, "no tokenizer"),
        (["w1"], {"num_runs": 0}, "0 timed"),
        (["w1"], {"warm_up": -1}, "-1 untimed"),
    ],
)
def test_mistakes_are_sentences(given, options, words_of_error):
    with pytest.raises(EvaluationError, match=words_of_error):
        compare(*equal_sides(), given, GREEDY, **{"tokenizer": word_tokenizer(), **options})


def test_sides_of_different_models_are_refused():
    engine, hf = equal_sides()
    other = ModelRunner(engine.session.executor, EngineLimits(vocab_size=50))
    with pytest.raises(EvaluationError, match="50 tokens and the Hugging Face model's 96"):
        compare(other, hf, TEXTS, GREEDY, tokenizer=word_tokenizer())


def test_a_request_beyond_the_engine_is_refused():
    _, hf = equal_sides()
    small = tiny_runner(hf.model, limits={"max_seq_len": 6})
    with pytest.raises(RequestError, match="max_seq_len"):
        compare(small, hf, TEXTS, GREEDY, tokenizer=word_tokenizer())
