"""A build of a child process told by its events, as the guide follows it."""

from __future__ import annotations

import io
import json
from dataclasses import asdict

import pytest

pytest.importorskip("anywidget")

from trtbench_lab.demo import demo_model_dir
from trtbench_lab.engine import BuildEvent
from trtbench_lab.specs.requests import ConvertSpec
from trtbench_lab.workbench import convert
from trtbench_widgets.build_watch import BuildWatch, ChildBuild
from trtbench_widgets.child import _done


def told(*events: BuildEvent) -> tuple[ChildBuild, BuildWatch]:
    stopped: list[str] = []
    job = ChildBuild(lambda: stopped.append("stop"))
    for event in events:
        job.take(json.loads(json.dumps(asdict(event))))
    return job, BuildWatch([job], ["Build"])


def test_phases_log_and_memory_come_from_its_events():
    job, watch = told(
        BuildEvent(kind="state", elapsed_s=0.0, text="running"),
        BuildEvent(kind="phase", elapsed_s=0.5, text="export", state="running", phase_s=0.0),
        BuildEvent(kind="log", elapsed_s=0.7, text="a cast", severity="warning", rank=1),
        BuildEvent(
            kind="heartbeat", elapsed_s=1.0, text="export", phase_s=0.5, resident_bytes=3 << 20, peak_bytes=5 << 20
        ),
    )
    watch.ask()
    (build,) = watch.builds
    assert [(phase["name"], phase["state"]) for phase in build["phases"]] == [("export", "running")]
    assert (build["resident"], build["peak"], build["state"]) == (3 << 20, 5 << 20, "running")
    assert [(line["severity"], line["rank"], line["text"]) for line in watch.log] == [("warning", 1, "a cast")]
    job.end("failed", "out of memory")
    watch.ask()
    assert (watch.builds[0]["state"], watch.builds[0]["error"]) == ("failed", "out of memory")
    assert watch.ended


def test_it_is_stopped_once_and_not_after_its_end():
    stops = []
    job = ChildBuild(lambda: stops.append(job.state))
    job.cancel()
    assert (job.state, stops) == ("cancelling", ["cancelling"])
    job.end("cancelled")
    job.cancel()
    assert (job.state, len(stops)) == ("cancelled", 1)
    assert job.elapsed_s == 0.0


def test_the_child_of_a_build_tells_its_phases_and_log(tmp_path, monkeypatch):
    monkeypatch.setenv("TRTBENCH_HOME", str(tmp_path / "home"))
    convert(ConvertSpec(source=str(demo_model_dir("gpt2")), output_dir=str(tmp_path / "checkpoint")))
    out = io.StringIO()
    words = ["build", "--checkpoint_dir", str(tmp_path / "checkpoint"), "--output_dir", str(tmp_path / "engine")]
    assert _done([*words, "--max_seq_len", "64", "--max_input_len", "32", "--backend", "torch"], out) == 0
    messages = [json.loads(line) for line in out.getvalue().splitlines()]
    _, watch = told(*(BuildEvent(**one["event"]) for one in messages if one["type"] == "event"))
    assert messages[-1]["type"] == "result"
    watch.ask()
    phases = {phase["name"]: phase["state"] for phase in watch.builds[0]["phases"]}
    assert len(phases) >= 3
    assert set(phases.values()) == {"done"}
