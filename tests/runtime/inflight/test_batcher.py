"""The thread that runs the batch: streams, cancels, errors of one request alone, many threads and coroutines."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from tests.runtime.inflight.fakes import VOCAB_SIZE, fake_runner, greedy, step_limits

from trtbench_lab.errors import EngineError, RequestError
from trtbench_lab.runtime import EngineLimits
from trtbench_lab.runtime.inflight.batcher import InflightBatcher
from trtbench_lab.specs import SamplingConfig

LIMITS = EngineLimits(vocab_size=VOCAB_SIZE, max_batch_size=4, max_input_len=30, max_seq_len=60)


@pytest.fixture(params=[1, 2], ids=["depth 1", "depth 2"])
def batcher(request: pytest.FixtureRequest) -> Iterator[InflightBatcher]:
    made = InflightBatcher(fake_runner(request.param), LIMITS, record=True)
    yield made
    made.close()


def make_slow(batcher: InflightBatcher, seconds: float = 0.002) -> None:
    """Let steps take long enough for others to act in between."""
    executor: Any = batcher.runner.executor  # type: ignore[attr-defined]
    run = executor.run
    executor.run = lambda stream=None: (time.sleep(seconds), run(stream))[0]


def test_results_are_those_of_each_request_alone(batcher: InflightBatcher) -> None:
    prompts = [list(range(n % 13 + 1)) for n in range(20)]
    handles = [batcher.submit(prompt, max_new_tokens=3 + i % 9) for i, prompt in enumerate(prompts)]
    for i, (handle, prompt) in enumerate(zip(handles, prompts, strict=True)):
        assert handle.result(30) == greedy(prompt, 3 + i % 9)
        assert handle.finish_reason == "length"
        timing = handle.timing
        assert len(timing.token_ns) == 3 + i % 9
        assert timing.sent_ns < timing.token_ns[0]
        assert timing.ttft_ms is not None
        assert timing.latency_ms is not None
        assert timing.latency_ms >= timing.ttft_ms > 0
    assert batcher.num_unfinished == 0
    assert sum(step.counts.decode_rows for step in batcher.timeline) >= sum(2 + i % 9 for i in range(20))


def test_streaming_gives_tokens_in_order_before_the_end(batcher: InflightBatcher) -> None:
    make_slow(batcher)
    handle = batcher.submit([5, 6], max_new_tokens=12, streaming=True)
    pieces = list(handle)
    assert len(pieces) > 2
    assert [token for piece in pieces for token in piece] == greedy([5, 6], 12)
    assert list(handle) == [greedy([5, 6], 12)]  # a second look gives all at once


def test_a_request_that_does_not_stream_gives_all_at_the_end(batcher: InflightBatcher) -> None:
    assert list(batcher.submit([5, 6], max_new_tokens=12)) == [greedy([5, 6], 12)]


def test_coroutines_read_many_requests_side_by_side(batcher: InflightBatcher) -> None:
    async def read(n: int) -> list[int]:
        tokens: list[int] = []
        async for new in batcher.submit([n, 1], max_new_tokens=6, streaming=True):
            tokens += new
        return tokens

    async def everybody() -> list[list[int]]:
        return await asyncio.gather(*(read(n) for n in range(12)))

    assert asyncio.run(everybody()) == [greedy([n, 1], 6) for n in range(12)]


def test_threads_may_send_and_wait_at_once(batcher: InflightBatcher) -> None:
    def work(n: int) -> list[int]:
        return batcher.submit([n % VOCAB_SIZE, n % 7], max_new_tokens=1 + n % 5).result(30)

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(work, range(100)))
    assert results == [greedy([n % VOCAB_SIZE, n % 7], 1 + n % 5) for n in range(100)]


def test_cancel_keeps_what_was_made_and_frees_the_blocks(batcher: InflightBatcher) -> None:
    make_slow(batcher)
    handle = batcher.submit([3], max_new_tokens=50, streaming=True)
    other = batcher.submit([4], max_new_tokens=20)
    first = next(iter(handle))
    handle.cancel()
    made = handle.result(30)
    assert handle.finish_reason == "cancelled"
    assert first == made[: len(first)]
    assert len(made) < 50
    assert made == greedy([3], 50)[: len(made)]
    assert other.result(30) == greedy([4], 20)
    handle.cancel()  # once more does nothing
    assert batcher.scheduler.blocks.in_use == 0


def test_leaving_an_async_iteration_early_does_not_stop_the_request(batcher: InflightBatcher) -> None:
    async def first_then_rest() -> list[int]:
        handle = batcher.submit([8], max_new_tokens=9, streaming=True)
        async for _ in handle:
            break
        return await handle.aresult()

    assert asyncio.run(first_then_rest()) == greedy([8], 9)


@pytest.mark.parametrize(
    ("prompt", "keywords", "words"),
    [
        ([], {}, "empty"),
        ([VOCAB_SIZE], {}, "outside the vocabulary"),
        ([1] * 31, {}, "31 tokens"),
        ([1] * 30, {"max_new_tokens": 31}, "at most 60"),
        ([1], {"max_new_tokens": 5, "num_beams": 2}, "Beam search"),
        ([1], {"max_new_tokens": 5, "output_logits": True}, "no logits"),
        ([1], {"max_new_token": 5}, "max_new_tokens"),
        ("text", {}, "text"),
    ],
)
def test_a_wrong_request_is_refused_and_no_other_notices(
    batcher: InflightBatcher, prompt: Any, keywords: dict[str, Any], words: str
) -> None:
    before = batcher.submit([2, 3], max_new_tokens=8)
    with pytest.raises(RequestError, match=words):
        batcher.submit(prompt, **keywords)
    assert before.result(30) == greedy([2, 3], 8)


def test_a_request_that_the_whole_cache_cannot_hold_is_refused_with_a_sentence() -> None:
    batcher = InflightBatcher(fake_runner(num_blocks=6), LIMITS)
    with pytest.raises(RequestError, match=r"needs? 6 cache blocks .* has 5: it could never run"):
        batcher.submit([1] * 10, max_new_tokens=11)
    assert batcher.submit([1] * 10, max_new_tokens=10).result(30) == greedy([1] * 10, 10)
    batcher.close()


def test_a_truncated_prompt_is_cut_where_asked(batcher: InflightBatcher) -> None:
    prompt = list(range(40))
    assert batcher.submit(prompt, max_new_tokens=4, truncation="left").result(30) == greedy(prompt[-30:], 4)


def test_nan_ends_its_own_request_alone(batcher: InflightBatcher) -> None:
    batcher.runner.executor.poison = 60  # type: ignore[attr-defined]
    good = batcher.submit([1, 2], max_new_tokens=10)
    bad = batcher.submit([60, 2], max_new_tokens=10)
    with pytest.raises(EngineError, match="NaN for token 0"):
        bad.result(30)
    assert bad.finish_reason == "error"
    assert good.result(30) == greedy([1, 2], 10)
    sampled = batcher.submit([60, 2], max_new_tokens=10, top_k=5)
    with pytest.raises(EngineError, match="NaN"):
        sampled.result(30)


def test_a_failed_step_ends_its_requests_and_the_batch_goes_on(batcher: InflightBatcher) -> None:
    batcher.runner.executor.fail_at = 2  # type: ignore[attr-defined]
    hurt = batcher.submit([1, 2], max_new_tokens=10)
    with pytest.raises(EngineError, match="step of the running batch failed"):
        hurt.result(30)
    assert batcher.submit([1, 2], max_new_tokens=10).result(30) == greedy([1, 2], 10)
    assert batcher.scheduler.blocks.in_use == 0


def test_whoever_waits_hears_of_a_fault_of_the_batcher_itself(
    batcher: InflightBatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(batcher.scheduler, "plan", broken)
    with pytest.raises(ZeroDivisionError):
        batcher.submit([1], max_new_tokens=3).result(30)
    with pytest.raises(EngineError, match="has stopped after an error"):
        batcher.submit([1], max_new_tokens=3)


def test_closing_ends_what_runs(batcher: InflightBatcher) -> None:
    make_slow(batcher)
    handle = batcher.submit([1], max_new_tokens=50, streaming=True)
    next(iter(handle))
    batcher.close()
    handle.result(30)
    assert handle.finish_reason == "cancelled"
    assert batcher.runner.executor.closed  # type: ignore[attr-defined]
    with pytest.raises(RequestError, match="closed"):
        batcher.submit([1], max_new_tokens=3)
    batcher.close()


def test_a_result_that_takes_too_long_says_so(batcher: InflightBatcher) -> None:
    make_slow(batcher, 0.05)
    handle = batcher.submit([1], max_new_tokens=50)
    with pytest.raises(RequestError, match=r"not ended after 0\.01 s"):
        handle.result(0.01)
    handle.cancel()


def test_an_engine_with_a_cache_in_one_piece_says_how_to_build_another() -> None:
    from tests.runtime.tiny_models import HFExecutor, tiny_gpt2

    from trtbench_lab.runtime.inflight.executor_runner import step_runner_for

    with pytest.raises(EngineError, match="--use_inflight_batching"):
        step_runner_for(HFExecutor(tiny_gpt2()), step_limits())


def test_of_several_requests_none_is_sent_when_one_is_wrong(batcher: InflightBatcher) -> None:
    with pytest.raises(RequestError, match="outside the vocabulary"):
        batcher.submit_all([([1], None, {"max_new_tokens": 3}), ([999], None, {"max_new_tokens": 3})])
    assert batcher.num_unfinished == 0
    both = batcher.submit_all([([1], None, {"max_new_tokens": 3}), ([2], None, {"max_new_tokens": 3})])
    assert [handle.result(30) for handle in both] == [greedy([1], 3), greedy([2], 3)]


def test_stop_words_end_tokens_and_log_probs(batcher: InflightBatcher) -> None:
    alone = greedy([7, 7], 20)
    word = alone[4:6]
    handle = batcher.submit([7, 7], max_new_tokens=20, stop_words=[word], output_log_probs=True)
    assert handle.result(30) == alone[:6]
    assert handle.finish_reason == "stop_words"
    assert len(handle.log_probs) == 6
    assert all(value < 0 for value in handle.log_probs)
    ends = batcher.submit([7, 7], max_new_tokens=20, end_id=[alone[9], alone[3]])
    assert ends.result(30) == alone[:4]
    assert ends.finish_reason == "end_id"


def test_minimum_length_and_bad_words_are_kept(batcher: InflightBatcher) -> None:
    alone = greedy([7, 7], 20)
    longer = batcher.submit([7, 7], max_new_tokens=20, end_id=alone[3], min_length=8).result(30)
    assert alone[3] not in longer[:8]
    assert longer[:3] == alone[:3]
    without = batcher.submit([7, 7], max_new_tokens=20, bad_words=[[alone[0], alone[1]], [alone[5]]]).result(30)
    assert (alone[0], alone[1]) not in list(itertools.pairwise(without))
    assert alone[5] not in without
    assert without[0] == alone[0]


def test_a_sampled_request_draws_the_same_alone_and_in_company(batcher: InflightBatcher) -> None:
    config = SamplingConfig(top_k=0, top_p=0.9, temperature=1.3, random_seed=11, max_new_tokens=12)
    alone = batcher.submit([9, 9, 9], config).result(30)
    crowd = [batcher.submit([n], max_new_tokens=15, top_k=4, random_seed=n) for n in range(8)]
    again = batcher.submit([9, 9, 9], config)
    other_seed = batcher.submit([9, 9, 9], config.replace(random_seed=12))
    assert again.result(30) == alone
    assert other_seed.result(30) != alone
    for handle in crowd:
        handle.result(30)


def test_a_top_k_beyond_all_tokens_takes_all_and_no_other_notices(batcher: InflightBatcher) -> None:
    sampling = {"temperature": 1.3, "random_seed": 5, "max_new_tokens": 6}
    beside = batcher.submit([2, 3], max_new_tokens=8)
    huge, whole = (batcher.submit([9], top_k=top_k, **sampling) for top_k in (2**40, VOCAB_SIZE))
    assert huge.result(30) == whole.result(30)
    assert beside.result(30) == greedy([2, 3], 8)


def test_penalties_count_prompt_and_output_as_the_other_runtime_does(batcher: InflightBatcher) -> None:
    import torch
    from tests.runtime.inflight.fakes import logits_of

    from trtbench_lab.runtime.sampling import LogitsPipeline, SamplingRules, largest

    options = {"repetition_penalty": 1.4, "presence_penalty": 0.3, "frequency_penalty": 0.2}
    prompt = [4, 4, 30, 9]
    pipeline = LogitsPipeline(SamplingRules(**options), [prompt], VOCAB_SIZE, torch.device("cpu"))
    text = list(prompt)
    for _ in range(15):
        token = int(largest(pipeline.process(torch.from_numpy(logits_of(text))[None]))[0])
        pipeline.append(torch.tensor([token]), [token])
        text.append(token)
    others = [batcher.submit([n], max_new_tokens=9) for n in range(5)]
    assert batcher.submit(prompt, max_new_tokens=15, **options).result(30) == text[4:]
    assert text[4:] != greedy(prompt, 15)
    for handle in others:
        handle.result(30)


def test_equal_prompts_of_whole_blocks_use_each_others_cache_and_still_compute_their_last_token(
    batcher: InflightBatcher,
) -> None:
    prompt = [int(token) for token in np.random.default_rng(3).integers(0, VOCAB_SIZE, 16)]
    first = batcher.submit(prompt, max_new_tokens=6)
    assert first.result(30) == greedy(prompt, 6)
    second = batcher.submit(prompt, max_new_tokens=6)
    assert second.result(30) == greedy(prompt, 6)
    assert first.reused_tokens == 0
    assert second.reused_tokens == 12
    # What was generated is found again too, when a longer conversation begins with it.
    longer = prompt + greedy(prompt, 6)
    third = batcher.submit(longer, max_new_tokens=6)
    assert third.result(30) == greedy(longer, 6)
    assert third.reused_tokens == 20


def test_a_full_cache_puts_the_youngest_off_and_everybody_ends() -> None:
    batcher = InflightBatcher(fake_runner(2, num_blocks=14), LIMITS, reuse=False)
    gate = threading.Event()
    executor: Any = batcher.runner.executor  # type: ignore[attr-defined]
    run = executor.run
    executor.run = lambda stream=None: (gate.wait(30), run(stream))[0]
    handles = [batcher.submit([n] * 5, max_new_tokens=30) for n in range(6)]
    gate.set()
    for n, handle in enumerate(handles):
        assert handle.result(30) == greedy([n] * 5, 30)
    assert sum(handle.preemptions for handle in handles) > 0
    assert handles[0].preemptions == 0
    batcher.close()
