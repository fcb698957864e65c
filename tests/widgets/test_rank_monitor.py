"""The rank monitor tells what the world tells, sends only what changed, and outlives a world that fails."""

from __future__ import annotations

import threading
import time

import pytest
from tests.widgets.messages import Wire, press

from trtbench_lab.distributed.status import STATES, RankStatus
from trtbench_lab.errors import RequestError
from trtbench_widgets.rank_monitor import RankMonitor


def rank(number: int, state: str = "busy", since_s: float = 5.0, **facts) -> RankStatus:
    known = {"host": "node-1", "gpu": str(number), "pid": 100 + number, "last_line": f"line of {number}", **facts}
    return RankStatus(rank=number, engine_id=number, state=state, since_s=since_s, **known)


class World:
    """Ranks as they are put; counts how often it is asked and what is done to it."""

    def __init__(self, *ranks: RankStatus):
        self.ranks, self.asked, self.done = ranks, 0, []
        self.error: Exception | None = None

    def status(self) -> tuple[RankStatus, ...]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.ranks

    def interrupt(self, ranks) -> None:
        self.done.append(f"interrupt {list(ranks)}")

    def restart(self) -> None:
        raise RuntimeError("no node is free")


def until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come within 30 s"
        time.sleep(0.01)


@pytest.fixture
def monitors():
    opened: list[RankMonitor] = []

    def make(world, **options) -> RankMonitor:
        opened.append(RankMonitor(world, **{"interval_s": 3600, **options}))
        return opened[-1]

    yield make
    for monitor in opened:
        monitor.close()


def test_every_state_is_told_and_bad_ones_are_marked(monitors):
    monitor = monitors(World(*(rank(i, state) for i, state in enumerate(STATES))))
    assert [entry["state"] for entry in monitor.ranks] == list(STATES)
    assert {entry["state"] for entry in monitor.ranks if entry["bad"]} == {"failed", "stuck", "dead"}
    assert monitor.summary.startswith("7 rank(s): 1 starting, 1 idle, 1 busy")


def test_three_hundred_looks_at_a_world_that_does_not_change_send_nothing(monitors):
    clock = {"now": 1000.0}
    world = World(rank(0), rank(1))
    monitor = monitors(world, clock=lambda: clock["now"])
    wire = Wire(monitor)
    for i in range(300):
        clock["now"] += 0.5
        world.ranks = (rank(0, since_s=5.5 + i * 0.5), rank(1, since_s=5.5 + i * 0.5))
        monitor.poll()
    assert world.asked == 301
    assert wire.messages == []


def test_a_death_is_sent_at_the_next_look(monitors):
    world = World(rank(0), rank(1))
    monitor = monitors(world, interval_s=0.02)
    wire = Wire(monitor)
    world.ranks = (rank(0), rank(1, "dead", 0.1, last_line="out of memory"))
    until(lambda: wire.updates("ranks"))
    assert wire.updates("ranks")[0][1]["state"] == "dead"
    assert wire.updates("summary")[0] == "2 rank(s): 1 busy, 1 dead"


def test_paused_it_asks_nothing(monitors):
    world = World(rank(0))
    monitor = monitors(world, interval_s=0.01)
    monitor.watching = False
    time.sleep(0.05)
    asked = world.asked
    time.sleep(0.1)
    assert world.asked == asked
    monitor.watching = True
    until(lambda: world.asked > asked)


def test_a_world_that_cannot_be_asked_is_said_and_asked_again(monitors):
    world = World(rank(0))
    monitor = monitors(world, interval_s=0.01)
    world.error = ConnectionError("the controller is gone")
    until(lambda: "the controller is gone" in monitor.notice)
    world.error = None
    world.ranks = (rank(0, "idle", 0.0),)
    until(lambda: monitor.ranks[0]["state"] == "idle")


def test_buttons_are_those_the_world_has_and_their_failure_is_said(monitors):
    world = World(rank(0))
    monitor = monitors(world)
    assert monitor.actions == ["interrupt", "restart"]
    press(monitor, "interrupt")
    until(lambda: world.done == ["interrupt [0]"])
    press(monitor, "restart")
    until(lambda: monitor.notice == "no node is free")

    class Watched:
        def status(self):
            return ()

    bare = monitors(Watched())
    assert bare.actions == []
    press(bare, "restart")
    assert bare.summary == "no ranks"


def test_closing_ends_the_thread():
    monitor = RankMonitor(World(rank(0)), interval_s=0.01)
    monitor.close()
    monitor._thread.join(30)
    assert not monitor._thread.is_alive()
    assert not any(thread.name == "rank-monitor" and thread.is_alive() for thread in threading.enumerate())


def test_it_reads_well_without_a_kernel(monitors):
    monitor = monitors(World(rank(0), rank(1, "dead", gpu=None, last_line="<b>bad</b>")))
    data = monitor._repr_mimebundle_()[0]
    assert "&lt;b&gt;bad&lt;/b&gt;" in data["text/html"]
    assert "dead" in data["text/plain"]
    assert "none" in data["text/plain"]


def test_without_a_world_it_says_how_to_start_one():
    with pytest.raises(RequestError, match=r"no ranks to watch.*\n.*trt_mpi start"):
        RankMonitor()


def test_the_librarys_world_is_what_is_watched(monitors):
    from trtbench_lab.distributed import World

    monitor = monitors(World(ranks=2))
    assert [entry["state"] for entry in monitor.ranks] == ["stopped", "stopped"]
    assert monitor.actions == ["interrupt", "restart"]
