"""Random arrivals, cancels, full caches and late tokens: nothing leaks, nobody is harmed, all outputs are as alone."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from tests.runtime.inflight.fakes import BLOCK, VOCAB_SIZE, fake_runner, greedy

from trtbench_lab.runtime.inflight.scheduler import Scheduler
from trtbench_lab.runtime.inflight.sequence import FINISHED, RUNNING, Sequence
from trtbench_lab.runtime.request import settle

# A few beginnings that many prompts share, so that full blocks are found again.
BEGINNINGS = [[], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7, 8], [9] * 12, list(range(20, 33))]
prompts = st.builds(
    lambda begin, rest: (BEGINNINGS[begin] + rest) or [0],
    st.integers(0, len(BEGINNINGS) - 1),
    st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=9),
)


class RunningBatch(RuleBasedStateMachine):
    """The scheduler over the hashing model, driven as the batcher drives it, in any order of events."""

    requests = Bundle("requests")

    @initialize(
        depth=st.integers(1, 3),
        slots=st.integers(1, 5),
        tokens=st.integers(1, 12),
        blocks=st.integers(10, 22),
        reuse=st.booleans(),
    )
    def load(self, depth: int, slots: int, tokens: int, blocks: int, reuse: bool) -> None:
        self.depth = depth
        self.runner = fake_runner(depth, max_batch_size=slots, max_num_tokens=tokens, num_blocks=blocks)
        self.scheduler = Scheduler(self.runner.limits, max_seq_len=36, reuse=reuse, queue_depth=depth)
        self.queued: deque[Any] = deque()
        self.everybody: list[Sequence] = []
        self.order_of_start: list[int] = []
        self.clock = 0

    @rule(target=requests, prompt=prompts, new_tokens=st.integers(1, 12), end_id=st.none() | st.integers(0, 9))
    def arrive(self, prompt: list[int], new_tokens: int, end_id: int | None) -> Sequence:
        request = settle(None, {"max_new_tokens": new_tokens, "end_id": end_id}, num_prompts=1, vocab_size=VOCAB_SIZE)
        sequence = Sequence(len(self.everybody), np.array(prompt, dtype=np.int32), request)
        self.scheduler.add(sequence)
        self.everybody.append(sequence)
        return sequence

    @rule(sequence=requests)
    def cancel(self, sequence: Sequence) -> None:
        ended = sequence.state == FINISHED
        assert self.scheduler.cancel(sequence) is not ended

    @rule(steps=st.integers(1, 6))
    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def step(self) -> bool:
        """One turn of the batcher's loop; False when there was nothing to do."""
        planned = self.scheduler.plan()
        if planned is not None:
            plan, limits = planned.plan, self.runner.limits
            assert 0 < plan.num_tokens <= limits.max_num_tokens
            assert 0 < plan.num_rows <= limits.max_batch_size
            assert plan.num_decode_rows <= plan.num_rows
            assert plan.query_starts[-1] == plan.num_tokens
            assert planned.counts.prompt_tokens + plan.num_decode_rows == plan.num_tokens
            self.queued.append((planned, self.runner.submit(plan)))
        if self.queued and (planned is None or len(self.queued) >= self.depth):
            done, ticket = self.queued.popleft()
            self.clock += 1
            self.scheduler.commit(done, ticket.tokens(), self.clock)
            return True
        return planned is not None

    @invariant()
    def blocks_are_counted(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        running = self.scheduler.rows.running()
        self.scheduler.blocks.check([sequence.blocks for sequence in running])
        owned: dict[int, list[Sequence]] = {}
        for sequence in running:
            assert sequence.state == RUNNING
            for index, block in enumerate(sequence.blocks):
                owned.setdefault(block, []).append(sequence)
                if len(owned[block]) > 1:  # shared: the same full block of the same text
                    texts = {tuple(self.text(s)[: (index + 1) * BLOCK]) for s in owned[block]}
                    assert len(texts) == 1
                    assert len(texts.pop()) == (index + 1) * BLOCK

    def text(self, sequence: Sequence) -> list[int]:
        known = self.scheduler.rows.known[sequence.slot]
        return [*sequence.prompt.tolist(), *self.scheduler.rows.generated[sequence.slot, :known].tolist()]

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        for _ in range(5000):
            if not self.step():
                break
        for sequence in self.everybody:
            assert sequence.state == FINISHED, "every request ends"
            assert sequence.pending == 0
            config = sequence.request.config
            alone = greedy(sequence.prompt.tolist(), config.max_new_tokens, config.end_id)
            assert sequence.token_ns == sorted(sequence.token_ns)
            assert len(sequence.token_ns) == len(sequence.generated)
            if sequence.finish_reason == "cancelled":
                assert sequence.generated == alone[: len(sequence.generated)]
            else:
                assert sequence.generated == alone
        assert self.scheduler.blocks.in_use == 0
        assert not self.scheduler.has_work
        self.scheduler.blocks.check([])


RunningBatch.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestRunningBatch = RunningBatch.TestCase


def drained(scheduler: Scheduler, runner: Any, depth: int) -> int:
    """Run until nobody is left; returns the number of steps."""
    queued: deque[Any] = deque()
    steps = 0
    while scheduler.has_work or queued:
        planned = scheduler.plan()
        if planned is not None:
            queued.append((planned, runner.submit(planned.plan)))
            steps += 1
        if queued and (planned is None or len(queued) >= depth):
            done, ticket = queued.popleft()
            scheduler.commit(done, ticket.tokens(), steps)
    return steps


def test_thousands_of_requests_through_a_cache_that_is_far_too_small() -> None:
    generator = np.random.default_rng(0)
    runner = fake_runner(2, max_batch_size=8, max_num_tokens=24, num_blocks=20, max_blocks_per_row=10)
    scheduler = Scheduler(runner.limits, queue_depth=2)
    everybody: list[Sequence] = []
    queued: deque[Any] = deque()
    arrivals = 2000
    while len(everybody) < arrivals or scheduler.has_work or queued:
        while len(everybody) < arrivals and len(scheduler.waiting) < 12:
            begin = BEGINNINGS[int(generator.integers(len(BEGINNINGS)))]
            prompt = [*begin, *generator.integers(0, VOCAB_SIZE, int(generator.integers(1, 8))).tolist()]
            rules = {"max_new_tokens": int(generator.integers(1, 16)), "end_id": 3}
            request = settle(None, rules, num_prompts=1, vocab_size=VOCAB_SIZE)
            sequence = Sequence(len(everybody), np.array(prompt, dtype=np.int32), request)
            scheduler.add(sequence)
            everybody.append(sequence)
        if generator.random() < 0.05:
            scheduler.cancel(everybody[int(generator.integers(max(0, len(everybody) - 12), len(everybody)))])
        planned = scheduler.plan()
        if planned is not None:
            queued.append((planned, runner.submit(planned.plan)))
        if queued and (planned is None or len(queued) >= 2):
            done, ticket = queued.popleft()
            scheduler.commit(done, ticket.tokens(), 0)
        if len(everybody) % 50 == 0:
            scheduler.blocks.check([s.blocks for s in scheduler.rows.running()])
    cancelled = 0
    for sequence in everybody:
        alone = greedy(sequence.prompt.tolist(), sequence.max_new_tokens, 3)
        if sequence.finish_reason == "cancelled":
            cancelled += 1
            assert sequence.generated == alone[: len(sequence.generated)]
        else:
            assert sequence.generated == alone
    assert scheduler.blocks.in_use == 0
    # The test means nothing unless all of this happened, and often.
    assert scheduler.preemptions > 100
    assert scheduler.blocks.reused_blocks > 300
    assert cancelled > 20


def test_plans_are_the_same_for_the_same_requests() -> None:
    def steps() -> int:
        runner = fake_runner()
        scheduler = Scheduler(runner.limits)
        for number in range(9):
            request = settle(None, {"max_new_tokens": 5 + number}, num_prompts=1, vocab_size=VOCAB_SIZE)
            scheduler.add(Sequence(number, np.arange(3 + 2 * number, dtype=np.int32), request))
        return drained(scheduler, runner, 1)

    assert steps() == steps()
