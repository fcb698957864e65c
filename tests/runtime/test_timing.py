"""Latency numbers from hand-made timestamps."""

from __future__ import annotations

import pytest

from trtbench_lab.runtime.timing import GenerationTiming, TokenClock

MS = 1_000_000


def test_numbers_of_a_hand_made_run():
    timing = GenerationTiming(100 * MS, (130 * MS, 140 * MS, 160 * MS), tokens_per_row=(3, 2))
    assert timing.ttft_ms == 30
    assert timing.latency_ms == 60
    assert timing.generation_ms == 30
    assert timing.inter_token_ms == [10, 20]
    assert timing.tpot_ms == 15
    assert timing.total_tokens == 5
    assert timing.tokens_per_second == pytest.approx(5 / 0.060)


def test_one_token_has_no_time_between_tokens():
    timing = GenerationTiming(0, (7 * MS,), (1,))
    assert timing.ttft_ms == timing.latency_ms == 7
    assert timing.inter_token_ms == []
    assert timing.tpot_ms is None
    assert timing.generation_ms is None


def test_no_token_has_no_latency_at_all():
    timing = GenerationTiming(0, (), (0,))
    assert timing.ttft_ms is None
    assert timing.latency_ms is None
    assert timing.tokens_per_second is None


def test_clock_waits_for_the_device_before_each_timestamp():
    calls = []
    clock = TokenClock(lambda: calls.append(len(clock.token_ns)))
    clock.start()
    clock.mark()
    clock.mark()
    assert calls == [0, 0, 1]  # before t0, before the first, before the second timestamp
    timing = clock.timing([2])
    assert timing.started_ns <= timing.token_ns[0] <= timing.token_ns[1]


def test_clock_forgets_the_run_before():
    clock = TokenClock()
    clock.start()
    clock.mark()
    clock.start()
    assert clock.timing([0]).token_ns == ()
