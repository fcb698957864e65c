"""Steps and requests over two ranks in one process: what rank 1 runs and hears is what rank 0 ran and was given."""

from __future__ import annotations

import asyncio
import queue
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tests.runtime.inflight.fakes import VOCAB_SIZE, HashExecutor, greedy, step_limits

from trtbench_lab.errors import EngineError, RequestError
from trtbench_lab.ranks import world as ranks_world
from trtbench_lab.runtime import EngineLimits, leading
from trtbench_lab.runtime.inflight.executor_runner import ExecutorStepRunner
from trtbench_lab.runtime.inflight.led_steps import FollowedSteps, LeadingSteps
from trtbench_lab.runtime.inflight.stepper import RunnerLostError
from trtbench_lab.runtime.inflight.told_batcher import FollowedBatcher, TellingBatcher
from trtbench_lab.specs import Mapping

LIMITS = EngineLimits(vocab_size=VOCAB_SIZE, max_batch_size=4, max_input_len=30, max_seq_len=60)


class Ranks:
    """Broadcasts from rank 0 alone, kept until rank 1 comes for them."""

    def __init__(self, rank: int, sent: queue.Queue[torch.Tensor]) -> None:
        self.mapping, self._sent = Mapping(tp_size=2).with_rank(rank), sent

    def broadcast(self, x: torch.Tensor, root: int = 0) -> torch.Tensor:
        if self.mapping.rank == root:
            self._sent.put(x.clone())
            return x
        return x.copy_(self._sent.get(timeout=60))


class Pair:
    """Both ranks' batchers over hashing executors; rank 1 does what it was told whenever somebody follows."""

    def __init__(self, depth: int, **limits: int) -> None:
        words: queue.Queue[Any] = queue.Queue()
        sent: queue.Queue[torch.Tensor] = queue.Queue()
        self.runners = []
        for rank in range(2):
            ranks: Any = Ranks(rank, sent)
            runner = ExecutorStepRunner(HashExecutor(), step_limits(**limits), ranks)
            runner.queue_depth = depth
            self.runners.append(runner)
        led = LeadingSteps(self.runners[0], words.put, 0, threading.RLock())
        self.zero = TellingBatcher(led, LIMITS, words.put, 0)
        steps = FollowedSteps(self.runners[1])

        def follow(found: Callable[[], Any]) -> Any:
            while (result := found()) is None:
                name, _, *rest = words.get(timeout=60)
                orders[name](*rest)
            return result

        self.one = FollowedBatcher(self.runners[1], LIMITS, follow)
        orders: dict[str, Callable[..., None]] = {
            "inflight_step": steps.run,
            "inflight_answered": self.one.hear_answer,
            "inflight_news": self.one.hear_news,
            "close_llm": self.one.hear_close,
        }

    def executor(self, rank: int) -> Any:
        return self.runners[rank].executor


@pytest.fixture(params=[1, 2], ids=["depth 1", "depth 2"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(request.param, num_blocks=14)
    yield made
    made.zero.close()


def test_every_rank_writes_the_same_cache_whatever_comes_leaves_or_is_put_off(pair: Pair) -> None:
    chance = random.Random(3)
    shared = [chance.randrange(VOCAB_SIZE) for _ in range(9)]
    handles = []
    for number in range(40):
        prompt = (shared if number % 2 else []) + [chance.randrange(VOCAB_SIZE) for _ in range(chance.randrange(1, 12))]
        new_tokens = chance.randrange(1, 30)
        handle = pair.zero.submit(prompt, max_new_tokens=new_tokens)
        handles.append((handle, prompt, new_tokens))
        if chance.random() < 0.2:
            handles[chance.randrange(len(handles))][0].cancel()
    for handle, prompt, new_tokens in handles:
        tokens = handle.result(60)
        assert tokens == greedy(prompt, new_tokens)[: len(tokens)]
        assert len(tokens) == new_tokens or handle.finish_reason == "cancelled"
    assert pair.zero.scheduler.preemptions > 0
    pair.zero.close()
    pools = [pair.executor(rank).bound["kv_cache_0"] for rank in range(2)]
    pair.one.close()  # runs all that was told
    assert pair.executor(0).steps == pair.executor(1).steps
    assert torch.equal(*pools)
    assert pair.executor(1).closed is False  # the order of that name frees it, not the batcher


def test_the_others_hear_tokens_ends_and_refusals(pair: Pair) -> None:
    programs = []
    for batcher in (pair.zero, pair.one):
        handle = batcher.submit([5, 6], max_new_tokens=12, streaming=True)
        several = batcher.submit_all([([7], None, {"max_new_tokens": 3}), ([8], None, {"max_new_tokens": 4})])
        pieces = [token for piece in handle for token in piece]
        results = [other.result() for other in several]
        with pytest.raises(RequestError, match="31 tokens") as refused:
            batcher.submit([1] * 31)
        programs.append((pieces, results, handle.finish_reason, handle.timing, str(refused.value)))
    assert programs[0] == programs[1]
    assert programs[0][0] == greedy([5, 6], 12)
    assert pair.one.num_unfinished == 0


def test_calls_are_told_apart_by_what_they_send(pair: Pair) -> None:
    """Threads and coroutines may send in another order on another rank."""
    for n in range(4):
        pair.zero.submit([n], max_new_tokens=5, streaming=True)

    async def read(n: int) -> list[int]:
        tokens: list[int] = []
        async for new in pair.one.submit([n], max_new_tokens=5, streaming=True):
            tokens += new
        return tokens

    async def everybody() -> list[list[int]]:
        return await asyncio.gather(*(read(n) for n in reversed(range(4))))

    assert asyncio.run(everybody()) == [greedy([n], 5) for n in reversed(range(4))]


class Processor:
    """A thing of a program: each rank has its own, at its own address."""


def test_mistakes_of_every_kind_are_refused_on_every_rank(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []
    for batcher in (pair.zero, pair.one):
        before = batcher.submit([5, 6], max_new_tokens=9)
        refused = []
        for prompt, keywords in (([[1, 2]], {}), ([1], {"logits_processor": [Processor()]}), ({1: 2}, {})):
            with pytest.raises(RequestError) as error:
                batcher.submit(prompt, **keywords)
            refused.append(str(error.value))
        tokens = [torch.tensor(1), torch.tensor(2)]
        heard.append((refused, before.result(), batcher.submit(tokens, max_new_tokens=3).result()))
    assert heard[0] == heard[1]
    assert heard[0][1:] == (greedy([5, 6], 9), greedy([1, 2], 3))

    def faulty(*_: Any) -> Any:
        raise TypeError("nobody thought of that")

    monkeypatch.setattr(pair.zero, "_checked", faulty)
    with pytest.raises(TypeError):
        pair.zero.submit([3], max_new_tokens=2)
    with pytest.raises(RuntimeError, match="rank 0: TypeError: nobody thought of that"):
        pair.one.submit([3], max_new_tokens=2)


def test_what_comes_after_the_close_is_refused_alike_on_every_rank(pair: Pair) -> None:
    for batcher in (pair.zero, pair.one):
        batcher.close()
        with pytest.raises(RequestError, match="The batcher is closed"):
            batcher.submit([1], max_new_tokens=2)


def test_a_call_that_rank_0_never_makes_is_named(pair: Pair) -> None:
    pair.zero.close()
    with pytest.raises(EngineError, match="never sent this request"):
        pair.one.submit([1], max_new_tokens=2)


def test_a_step_that_fails_ends_the_batch_for_good(pair: Pair) -> None:
    pair.executor(0).fail_at = 2
    handle = pair.zero.submit([3], max_new_tokens=9)
    with pytest.raises(RunnerLostError, match="A step failed on rank 0") as lost:
        handle.result(60)
    assert "on fire" in (lost.value.details or "")
    with pytest.raises(EngineError, match="stopped after an error"):
        pair.zero.submit([3], max_new_tokens=2)


class Words:
    """Rank 0's words in a row."""

    rank, size = 1, 2

    def __init__(self, *words: tuple[Any, ...]) -> None:
        self._words = iter(words)
        self.aborted = 0
        self.posted: list[Any] = []

    def take(self) -> Any:
        return next(self._words)

    def post(self, message: Any) -> None:
        self.posted.append(message)

    def abort(self, code: int = 1) -> None:
        self.aborted += 1


def test_words_for_another_call_are_kept_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    monkeypatch.setitem(leading.ORDERS, "note", done.append)
    world: Any = Words(("note", 1), ("return", "first"), ("note", 2), ("return", "second"))
    assert leading.follow_until(world, lambda: done if len(done) == 2 else None) == [1, 2]
    assert leading.last_of(leading.follow(world)) == "first"
    assert leading.last_of(leading.follow(world)) == "second"


def test_a_stream_that_is_left_early_leaves_nothing_for_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    zero: Any = Words()
    zero.rank = 0
    monkeypatch.setattr(leading, "control", lambda: zero)
    for _ in leading.together_each(lambda: iter("abc")):
        break
    assert leading.together(lambda: 5) == 5
    one: Any = Words(*zero.posted)
    for value in leading.follow(one):
        assert value == "a"
        break
    assert leading.last_of(leading.follow(one)) == 5
    # Where another rank leaves before rank 0 does, and where rank 0's stream fails after that.
    one = Words(("yield", 1), ("yield", 2), ("raise", ValueError()), ("yield", 3), ("end",))
    assert next(leading.follow(one)) == 1
    assert list(leading.follow(one)) == [3]


def test_an_error_that_ends_a_program_ends_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: shown.append(error))
    world: Any = Words()
    ranks_world._end_all_with_one(world)
    told, own = EngineError("rank 0 says so"), RuntimeError("mine")
    told.led = True
    sys.excepthook(EngineError, told, None)
    assert (shown, world.aborted) == ([], 0)
    sys.excepthook(RuntimeError, own, None)
    assert (shown, world.aborted) == ([own], 1)


FAILS_AFTER_TORCHS_HOOK = """
import os, sys
import torch.distributed as dist
from trtbench_lab.ranks import world

class Control:
    rank = 1
    def abort(self, code):
        os._exit(7)

world._end_all_with_one(Control())
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
if sys.argv[1] == "again":
    world._end_all_with_one(Control())
raise RuntimeError("this card has fallen off the bus")
"""


@pytest.mark.parametrize("installed", ["once", "again"])
def test_an_error_is_shown_whole_before_its_rank_ends_all_though_torch_holds_it_back(installed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAILS_AFTER_TORCHS_HOOK, installed], capture_output=True, text=True, timeout=120
    )
    assert done.stderr.count("this card has fallen off the bus") == 1
    assert done.returncode == 7
