"""Phases report begin, throttled counts and one end, whatever happens inside."""

from __future__ import annotations

import threading

import pytest

from trtbench_lab import progress
from trtbench_lab.progress import ProgressEvent, no_progress, phase


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_first_and_last_event_frame_the_body(clock: Clock) -> None:
    events: list[ProgressEvent] = []
    with phase("write", events.append, total=3, unit="tensor") as current:
        clock.now += 2.5
        current.advance(3, message="lm_head")
    assert [(e.state, e.done, e.elapsed_s) for e in events] == [
        ("running", 0, 0),
        ("running", 3, 2.5),
        ("done", 3, 2.5),
    ]
    assert {(e.phase, e.total, e.unit) for e in events} == {("write", 3, "tensor")}
    assert events[-1].message == "lm_head"


def test_counts_are_throttled_and_none_is_lost(clock: Clock) -> None:
    events: list[ProgressEvent] = []
    with phase("count", events.append, interval_s=1.0) as current:
        for _ in range(1000):
            clock.now += 0.01  # ten seconds in all
            current.advance()
    # Eleven: one at once and one in each of ten seconds, give or take the rounding of a hundredth.
    assert 10 <= len(events) - 2 <= 11
    assert events[-1].done == 1000


def test_negative_counts_take_back(clock: Clock) -> None:
    events: list[ProgressEvent] = []
    with phase("download", events.append) as current:
        current.advance(10)
        current.advance(-4)
    assert events[-1].done == 6


@pytest.mark.parametrize("fault", [ValueError("x"), KeyboardInterrupt()])
def test_failure_is_reported_and_passes_through(fault: BaseException) -> None:
    events: list[ProgressEvent] = []
    with pytest.raises(type(fault)), phase("build", events.append):
        raise fault
    assert [e.state for e in events] == ["running", "failed"]


def test_a_display_that_fails_does_not_hide_the_fault() -> None:
    def broken(event: ProgressEvent) -> None:
        if event.state == "failed":
            raise BrokenPipeError

    with pytest.raises(ValueError, match="the fault"), phase("build", broken):
        raise ValueError("the fault")


def test_threads_count_together_and_meet_the_sink_one_at_a_time() -> None:
    inside = threading.Lock()
    overlaps = []

    def sink(event: ProgressEvent) -> None:
        overlaps.append(not inside.acquire(blocking=False))
        inside.release()

    with phase("count", sink, interval_s=0.0) as current:
        threads = [threading.Thread(target=lambda: [current.advance() for _ in range(2000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert current.done == 8000
    assert not any(overlaps)


def test_without_a_sink_nothing_happens() -> None:
    with phase("quiet") as current:
        current.advance()
    assert current.done == 1
    no_progress(ProgressEvent("quiet"))
