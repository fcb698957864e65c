"""The small parts of a build: messages, names, machine, memory, thinning of events, exit sentences, views."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.conftest import tiny_config

from trtbench_lab import errors
from trtbench_lab.engine.dispatch import thinned
from trtbench_lab.engine.events import (
    BuildEvent,
    decode_message,
    encode_message,
    error_from_message,
    message_from_error,
)
from trtbench_lab.engine.machine import gpus_from_csv, machine_fingerprint, machine_sentence
from trtbench_lab.engine.memory import oom_kills, peak_bytes_of, resident_bytes_of_tree
from trtbench_lab.engine.monitor import BuildMonitor
from trtbench_lab.engine.names import legacy_engine_name
from trtbench_lab.engine.present import bytes_text, html_facts, html_table, plain_table, seconds_text
from trtbench_lab.engine.process import exit_sentence
from trtbench_lab.engine.seal import built_for_gpu
from trtbench_lab.engine.supervise import _remedy
from trtbench_lab.engine.watchdog import start_watchdog
from trtbench_lab.errors import BuildCancelled, TrtbenchError
from trtbench_lab.specs import Mapping

ERROR_KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TrtbenchError)]


@given(st.dictionaries(st.text(max_size=5), st.text(), max_size=4))
def test_messages_survive_the_pipe(fields):
    message = {**fields, "type": "log"}
    line = encode_message(message)
    assert line.count(b"\n") == 1
    assert decode_message(line.decode("ascii")) == message


def test_undecodable_paths_survive_the_pipe():
    path = os.fsdecode(b"/tmp/\xff\xfe")
    assert os.fsencode(decode_message(encode_message({"type": "x", "path": path}).decode())["path"]) == b"/tmp/\xff\xfe"


@pytest.mark.parametrize("line", ["", "{", "[]", "3", '{"a": 1}', '{"type": 3}', "[" * 10_000])
def test_what_is_no_message(line):
    assert decode_message(line) is None


@pytest.mark.parametrize("kind", ERROR_KINDS)
def test_errors_survive_the_pipe(kind):
    error = kind("what", where="there", remedy="do", details="more")
    back = error_from_message(decode_message(encode_message(message_from_error(error)).decode()))
    assert (type(back), str(back), back.details) == (kind, str(error), "more")


@pytest.mark.parametrize("kind", ["NoSuchError", "suggest", "annotations", None])
def test_unknown_error_is_a_build_error(kind):
    assert type(error_from_message({"type": "error", "kind": kind, "what": "x"})) is errors.BuildError


@pytest.mark.parametrize(
    ("changes", "rank", "name"),
    [
        ({}, 0, "gpt_float32_tp1_rank0.engine"),
        (
            {"dtype": "float16", "mapping": Mapping(world_size=2, tp_size=2, pp_size=1)},
            1,
            "gpt_float16_tp2_rank1.engine",
        ),
        (
            {"architecture": "LlamaForCausalLM", "mapping": Mapping(world_size=4, tp_size=2, pp_size=2)},
            3,
            "llama_float32_tp2_pp2_rank3.engine",
        ),
        ({"architecture": "GPT2LMHeadModel"}, 0, "gpt_float32_tp1_rank0.engine"),
        ({"architecture": "MistralForCausalLM"}, 0, "llama_float32_tp1_rank0.engine"),
        ({"architecture": "StarCoder2ForCausalLM"}, 0, "starcoder2_float32_tp1_rank0.engine"),
    ],
)
def test_older_names(changes, rank, name):
    assert legacy_engine_name(tiny_config(**changes), rank) == name


def test_machine_fingerprint():
    machine = machine_fingerprint()
    assert machine["arch"] == os.uname().machine
    assert machine["cpu_cores_usable"] == len(os.sched_getaffinity(0))
    assert machine["memory_bytes"] == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with open("/proc/cpuinfo", encoding="utf-8") as handle:
        words = set(handle.read().split())
    assert set(machine["cpu_flags"]) <= words
    machine["cpu_flags"].clear()
    assert machine_fingerprint()["cpu_flags"] != [] or not words & {"avx", "asimd"}


def test_gpus_of_the_driver():
    text = "NVIDIA H200, 9.0, 570.86.15, 143771\nNVIDIA GB10, 12.1, 580.95, [N/A]\nno devices\n"
    gpus = gpus_from_csv(text)
    assert [gpu["name"] for gpu in gpus] == ["NVIDIA H200", "NVIDIA GB10"]
    assert gpus[0]["memory_bytes"] == 143771 << 20
    assert "memory_bytes" not in gpus[1]
    machine = {"arch": "x86_64", "cpu_model": "Xeon", "cpu_flags": ["fma", "avx2"], "gpus": gpus[:1]}
    assert machine_sentence(machine) == "Xeon (x86_64, avx2), NVIDIA H200"
    assert built_for_gpu({"gpus": gpus}, "x86_64 cuda sm121")["name"] == "NVIDIA GB10"
    assert built_for_gpu({"gpus": gpus}, "NVIDIA H200")["name"] == "NVIDIA H200"
    assert built_for_gpu({"gpus": gpus}, "x86_64 cpu") is None


@pytest.mark.parametrize("machine", [{}, {"cpu_flags": None, "gpus": [3]}, {"cpu_model": 5, "arch": None}])
def test_strange_machine_has_a_sentence_too(machine):
    assert machine_sentence(machine)


def test_memory_of_processes():
    code = "import os, sys; block = os.urandom(1 << 20) * 64; del block; print('x', flush=True); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        child.stdout.readline()
        assert peak_bytes_of(child.pid) > 64 << 20  # freed by now, and still known
        assert resident_bytes_of_tree(child.pid) < 64 << 20
        assert resident_bytes_of_tree(child.pid, without=child.pid) == 0
    finally:
        child.communicate()
    assert peak_bytes_of(child.pid) is None
    assert resident_bytes_of_tree(child.pid) == 0


def test_out_of_memory_is_told_from_being_killed():
    before = oom_kills()
    if before is not None:
        assert "Somebody ended it" in _remedy(-signal.SIGKILL, before)
        assert "ran out of memory" in _remedy(-signal.SIGKILL, before - 1)
    assert "Somebody ended it" in _remedy(-signal.SIGKILL, None)


def test_exit_sentences():
    assert exit_sentence(-11) == "was ended by signal 11 (SIGSEGV: segmentation fault)"
    assert exit_sentence(3) == "ended with status 3 before it had finished"
    assert "signal 40" in exit_sentence(-40)


def test_thinning_keeps_what_matters():
    def event(kind, text):
        return BuildEvent(kind=kind, elapsed_s=0.0, text=text)

    events = [event("heartbeat", "1"), event("phase", "a"), event("heartbeat", "2")]
    events += [event("log", str(i)) for i in range(80)] + [event("note", "n"), event("state", "done")]
    kept = thinned(events)
    assert [e.text for e in kept if e.kind == "heartbeat"] == ["2"]
    assert [e.text for e in kept if e.kind == "log"] == [str(i) for i in range(30, 80)]
    assert [e.text for e in kept if e.kind in ("phase", "note", "state")] == ["a", "n", "done"]


def test_monitor_knows_the_phase_and_the_first_reason():
    monitor = BuildMonitor()
    monitor.phase_changed("export", "running", 0.0, rank=1)
    assert monitor.current_phase()[0] == "export (rank 1)"
    monitor.phase_changed("export", "done", 2.0, rank=1)
    assert monitor.current_phase() == ("", 0.0)
    assert monitor.phases[0].to_dict() == {"name": "export", "seconds": 2.0, "state": "done", "rank": 1}
    assert monitor.cancel("first")
    assert not monitor.cancel("second")
    with pytest.raises(BuildCancelled, match="first"), monitor.phase("never begins"):
        pytest.fail("a cancelled build began a phase")
    monitor.close()
    monitor.close()


def test_events_of_a_long_build_are_bounded():
    monitor = BuildMonitor()
    for index in range(10_050):
        monitor.add_line("info", str(index))
    events, seen = monitor.events_since(0)
    assert (len(events), seen, events[-1].text) == (10_000, 10_050, "10049")
    assert monitor.events_since(seen) == ([], seen)
    monitor.close()


def test_watchdog_leaves_a_foreign_group_alone():
    """A process that does not lead its group (a shell's job, a test run) must never be able to end that group."""
    if os.getpgrp() == os.getpid():
        code = (
            "import os; from trtbench_lab.engine.watchdog import start_watchdog;"
            "read, _ = os.pipe(); print(start_watchdog(read, os.getppid()))"
        )
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(errors.__file__))))
        environment = {**os.environ, "PYTHONPATH": os.path.join(root, "src") if not root.endswith("src") else root}
        answer = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert answer.stdout.strip() == "None"
    else:
        read, write = os.pipe()
        assert start_watchdog(read, os.getppid()) is None
        os.close(read)
        os.close(write)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1024, "1 KiB"), (11.4 * 2**20, "11.4 MiB"), (3 * 2**40, "3 TiB"), (None, "n/a")],
)
def test_sizes(count, text):
    assert bytes_text(count) == text


def test_durations():
    assert seconds_text(4.21) == "4.2 s"
    assert seconds_text(185) == "3 min 05 s"


def test_views_escape_what_they_show():
    assert "<script>" not in html_facts("<script>", {"<script>": ["<script>"]})
    assert "<script>" not in html_table("<script>", ["<script>"], [["<script>"]])
    assert plain_table("T", ["name", "n"], [["a", 1000], ["bb", 2]]).splitlines()[-1] == "  bb        2"
