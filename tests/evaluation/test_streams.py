"""Streams say what `generate` says, part where the logits say, and can be stored, stopped and shown without a model."""

from __future__ import annotations

import threading

import pytest
from tests.evaluation.tiny_sides import disturbed_sides, equal_sides, word_tokenizer, words

from trtbench_lab.errors import EvaluationError, RequestError
from trtbench_lab.evaluation.streams import StreamEvent, StreamSource, stream_side_by_side
from trtbench_lab.evaluation.streams_result import StreamsResult
from trtbench_lab.results import Result, ResultsDatabase
from trtbench_lab.runtime.text import new_tokens_of
from trtbench_lab.specs import SamplingConfig

PROMPTS = [[3, 14, 15], [9, 26, 5, 35]]
SAMPLING = SamplingConfig(max_new_tokens=8, end_id=-1)


def sources(pair) -> list[StreamSource]:
    engine, hf = pair
    return [StreamSource(label="Hugging Face", runner=hf), StreamSource(label="tiny int8", runner=engine)]


@pytest.fixture(scope="module")
def parted() -> StreamsResult:
    return stream_side_by_side(sources(disturbed_sides(3.0)), PROMPTS, SAMPLING, tokenizer=word_tokenizer())


@pytest.mark.parametrize("mode", ["in turn", "at once"])
def test_streamed_tokens_are_those_of_generate(mode: str):
    pair = equal_sides()
    result = stream_side_by_side(sources(pair), PROMPTS, SAMPLING, mode=mode)
    for prompt, tokens in zip(result.prompts, PROMPTS, strict=True):
        expected = new_tokens_of(pair[1].generate([tokens], SAMPLING), 0)
        assert [stream.tokens for stream in prompt.streams] == [expected, expected]
        assert all(stream.divergence is None and stream.finish_reason == "length" for stream in prompt.streams)
        assert all(stream.token_ns == sorted(stream.token_ns) for stream in prompt.streams)
    assert result.mode == mode
    known = [side.memory.process_rss_peak_delta_bytes is not None for side in result.sides]
    assert known == [mode == "in turn"] * 2  # growth cannot be told apart when both ran


def test_events_come_token_by_token_and_end_with_the_whole_stream():
    events: list[StreamEvent] = []
    result = stream_side_by_side(
        sources(equal_sides()), PROMPTS[:1], SAMPLING, tokenizer=word_tokenizer(), on_event=events.append
    )
    for side in range(2):
        mine = [event for event in events if event.side == side]
        assert [event.kind for event in mine] == ["began", *["token"] * 8, "ended"]
        stream = result.prompts[0].streams[side]
        assert [event.token for event in mine[1:-1]] == stream.tokens
        assert [event.since_ns for event in mine[1:-1]] == stream.token_ns
        assert mine[-1].stream == stream
        assert stream.text.replace(" ", "") == words(*stream.tokens).replace(" ", "")


def test_the_first_differing_token_carries_both_sides_own_logits():
    pair = disturbed_sides(3.0)
    result = stream_side_by_side(sources(pair), PROMPTS, SAMPLING)
    parted = [
        (tokens, prompt.streams) for tokens, prompt in zip(PROMPTS, result.prompts, strict=True)
        if prompt.streams[1].divergence
    ]  # fmt: skip
    assert parted
    for tokens, (first, other) in parted:
        where = other.divergence
        assert first.tokens[: where.position] == other.tokens[: where.position]
        assert (where.hf_token, where.engine_token) == (first.tokens[where.position], other.tokens[where.position])
        shared = tokens + first.tokens[: where.position]
        (logits,) = pair[1].logits_of([shared], [len(shared) - 1])
        top = logits[0].topk(5)
        assert [a.token for a in where.hf_alternatives] == top.indices.tolist()
        assert where.hf_margin == pytest.approx(float(top.values[0] - top.values[1]))
        assert where.engine_alternatives[0].token == where.engine_token


def test_it_is_stored_and_comes_back_whole(parted: StreamsResult, tmp_path):
    database = ResultsDatabase(tmp_path / "r.sqlite")
    database.add(parted)
    assert database.get(parted.id) == parted
    assert Result.from_dict(parted.to_dict()) == parted
    assert parted.backend == "huggingface + torch"
    assert parted.metrics["tiny_int8.prompts_diverged"] >= 1
    assert parted.metrics["Hugging_Face.output_tokens"] == 16


def test_it_reads_well_without_scripts(parted: StreamsResult):
    page = parted._repr_html_()
    assert page.count("outline:2px solid") == parted.metrics["tiny_int8.prompts_diverged"]
    assert "Likeliest by Hugging Face" in page
    assert "in turn: each side had the machine to itself" in page
    assert "<script" not in page
    assert "part from Hugging Face" in repr(parted)


def test_stopping_keeps_what_was_made_and_is_no_difference():
    stop = threading.Event()

    def stop_at_three(event: StreamEvent) -> None:
        if event.kind == "token" and event.side == 1 and event.since_ns and len(seen) == 2:
            stop.set()
        if event.kind == "token" and event.side == 1:
            seen.append(event)

    seen: list[StreamEvent] = []
    result = stream_side_by_side(sources(equal_sides()), PROMPTS, SAMPLING, on_event=stop_at_three, stop=stop)
    assert result.stopped
    (prompt,) = result.prompts  # the second was never begun
    first, second = prompt.streams
    assert len(first.tokens) == 8
    assert len(second.tokens) == 3
    assert second.finish_reason is None
    assert second.divergence is None


def test_a_side_that_fails_does_not_cost_the_others_theirs():
    _, hf = equal_sides()

    class Broken:
        backend, vocab_size = "torch", hf.vocab_size

        def __init__(self, error: Exception):
            self.error = error

        def generate(self, *_, **__):
            raise self.error

        def memory(self):
            return {}

    broken = [StreamSource(label="a", runner=Broken(RequestError("too long"))),
              StreamSource(label="b", runner=Broken(ValueError("odd")))]  # fmt: skip
    result = stream_side_by_side([StreamSource(label="hf", runner=hf), *broken], PROMPTS[:1], SAMPLING, mode="at once")
    good, *failed = result.prompts[0].streams
    assert len(good.tokens) == 8
    assert [stream.error for stream in failed] == ["too long", "ValueError: odd"]
    assert "too long" in result._repr_html_()


def test_what_cannot_be_shown_is_refused():
    one = sources(equal_sides())[:1]
    with pytest.raises(EvaluationError, match="no mode 'both'"):
        stream_side_by_side(one, PROMPTS, mode="both")
    with pytest.raises(EvaluationError, match="5 generators"):
        stream_side_by_side(one * 5, PROMPTS)
    with pytest.raises(EvaluationError, match="no prompts"):
        stream_side_by_side(one, [])
