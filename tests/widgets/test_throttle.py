"""Many updates become few messages, and the last one always arrives."""

from __future__ import annotations

import threading

from trtbench_widgets.throttle import Throttle


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_three_hundred_updates_in_two_seconds_send_at_most_twenty_one_messages():
    clock, sent = Clock(), []
    throttle = Throttle(sent.append, interval_s=0.1, clock=clock)
    for i in range(300):
        clock.now = 100.0 + i * 2 / 300
        throttle.update(step=i)
    throttle.flush()
    assert throttle.sent == len(sent) <= 21
    assert sent[0] == {"step": 0}
    assert sent[-1] == {"step": 299}


def test_values_of_different_names_are_gathered():
    clock, sent = Clock(), []
    throttle = Throttle(sent.append, clock=clock)
    throttle.update(a=1)
    throttle.update(b=2)
    throttle.update(a=3)
    throttle.flush()
    assert sent == [{"a": 1}, {"a": 3, "b": 2}]


def test_the_last_value_comes_by_itself_when_nothing_follows():
    arrived = threading.Event()
    throttle = Throttle(lambda values: arrived.set() if values == {"step": 2} else None, interval_s=0.05)
    throttle.update(step=1)
    throttle.update(step=2)
    assert arrived.wait(30)


def test_nothing_is_sent_twice():
    sent = []
    throttle = Throttle(sent.append, interval_s=3600)
    throttle.update(step=1)
    throttle.flush()
    throttle.flush()
    assert sent == [{"step": 1}]


def test_threads_lose_nothing():
    sent = []
    throttle = Throttle(sent.append, interval_s=0.001)
    threads = [
        threading.Thread(target=lambda k=k: [throttle.update(**{f"{k}-{i}": i}) for i in range(100)]) for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    throttle.flush()
    assert len({name for values in sent for name in values}) == 400
