"""BuildMonitor over a job of the test's own, and over a real build."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("anywidget")

from trtbench_lab.engine import BuildEvent
from trtbench_widgets.build_monitor import BuildMonitor

from .messages import Wire, press


class Job:
    """Tells what a build in its second phase tells."""

    def __init__(self, ranks: int = 1, state: str = "running"):
        self.state, self.ranks, self.error = state, ranks, None
        self.resident_bytes, self.peak_bytes = 300 << 20, 420 << 20
        self.started = time.monotonic() - 12.0

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    def events(self) -> list[BuildEvent]:
        found = [
            BuildEvent(kind="phase", elapsed_s=0.1, text="hash the inputs", state="running", phase_s=0.0),
            BuildEvent(kind="phase", elapsed_s=0.9, text="hash the inputs", state="done", phase_s=0.8),
            BuildEvent(kind="note", elapsed_s=1.0, text="Computes in float32: this machine lacks float16."),
            BuildEvent(kind="log", elapsed_s=1.2, text="loading weights", severity="info"),
            BuildEvent(kind="log", elapsed_s=1.4, text="a tensor was cast", severity="warning"),
            BuildEvent(kind="log", elapsed_s=1.5, text="details", severity="debug"),
        ]
        for rank in range(self.ranks):
            where = None if self.ranks == 1 else rank
            found.append(
                BuildEvent(
                    kind="phase", elapsed_s=2.0, text="export the network", state="running", phase_s=0.0, rank=where
                )
            )
        return found

    def cancel(self, reason: str = "", *, wait: bool = True) -> None:
        self.state = "cancelled"


@pytest.fixture
def watched():
    opened = []

    def make(*jobs, **options):
        opened.append(BuildMonitor(*jobs, **{"interval_s": 3600.0, **options}))
        return opened[-1]

    yield make
    for monitor in opened:
        monitor.close()


def test_phases_log_notes_and_memory_are_told(watched):
    build = watched(Job()).builds[0]
    assert [(phase["name"], phase["state"]) for phase in build["phases"]] == [
        ("hash the inputs", "done"),
        ("export the network", "running"),
    ]
    assert build["phases"][0]["seconds"] == 0.8
    assert (build["resident"], build["peak"]) == (300 << 20, 420 << 20)
    assert build["notes"] == ["Computes in float32: this machine lacks float16."]


def test_ranks_and_jobs_stand_side_by_side(watched):
    monitor = watched(Job(), Job(ranks=2), labels=["one"])
    assert [build["label"] for build in monitor.builds] == ["one", "Build 2"]
    assert {phase["rank"] for phase in monitor.builds[1]["phases"]} == {None, 0, 1}
    assert [line["severity"] for line in monitor.log].count("warning") == 2


def test_time_that_passes_sends_nothing(watched):
    job = Job()
    job.resident_bytes = 0
    monitor = watched(job)
    wire = Wire(monitor)
    for _ in range(50):
        monitor.poll()
    assert wire.messages == []


def test_memory_keeps_its_shape_over_any_length(watched):
    monitor = watched(Job())
    for _ in range(1000):
        monitor.poll()
    points = monitor.builds[0]["memory"]
    assert 100 <= len(points) <= 240
    assert points == sorted(points)


def test_cancel_reaches_the_job(watched):
    job, other = Job(), Job()
    monitor = watched(job, other)
    press(monitor, "cancel", job=0)
    assert (job.state, other.state) == ("cancelled", "running")
    assert monitor.builds[0]["state"] == "cancelled"


def test_the_thread_ends_with_the_builds():
    monitor = BuildMonitor(Job(state="done"), interval_s=0.01)
    monitor._thread.join(30)
    assert not monitor._thread.is_alive()
    assert monitor.ended
    monitor.close()


def test_it_reads_well_without_a_kernel(watched):
    data = watched(Job(), labels=["<b>"])._repr_mimebundle_()[0]
    assert "&lt;b&gt;" in data["text/html"]
    assert "export the network" in data["text/plain"]
    assert "%" not in data["text/plain"]
