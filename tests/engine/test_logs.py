"""The build's log: severities of what libraries really print, lines cut from raw bytes, a bounded tail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtbench_lab.engine.logs import SEVERITIES, BuildLog, LineClassifier, LineCutter, LogLine

LINES = [
    ("2026-01-31 12:00:00.123456789 [W:onnxruntime:, graph.cc:1283 Fold] Removing initializer 'x'.", "warning"),
    ("2026-01-31 12:00:00.1 [E:onnxruntime:Default, env.cc:95 Log] pthread_setaffinity_np failed", "error"),
    ("2026-01-31 12:00:00.1 [I:onnxruntime:, session.cc:1 Init] Creating", "info"),
    ("2026-01-31 12:00:00.1 [V:onnxruntime:, session.cc:1 Init] Node placement", "debug"),
    ("[01/31/2026-12:00:00] [TRT] [W] Using default for use_cuda_graph", "warning"),
    ("[01/31/2026-12:00:00] [TRT] [F] out of device memory", "error"),
    ("W0131 12:00:00.000000 123 torch/_logging.py:1] Dynamo is not here", "warning"),
    ("[E0131 12:00:00.1 ProcessGroupNCCL.cpp:607] Watchdog caught an error", "error"),
    ("WARNING:torch.onnx:something to know", "warning"),
    ("[torch.onnx] ERROR: no decomposition", "error"),
    ("2026-01-31 12:00:00,123 INFO: loading", "info"),
    ("/usr/lib/python3/site-packages/x.py:12: UserWarning: deprecated", "warning"),
    ("RuntimeError: shapes differ", "error"),
    ("onnxruntime.capi.Fail: RuntimeException (code 6): no", "info"),
    ("terminate called after throwing an instance of 'std::bad_alloc'", "error"),
    ("exporting 12 layers", "info"),
    ("0 errors: all well", "info"),
]


@pytest.mark.parametrize(("line", "severity"), LINES, ids=range(len(LINES)))
def test_severity(line, severity):
    assert LineClassifier().severity(line) == severity


def test_traceback_is_one_error():
    classify = LineClassifier().severity
    lines = ["Traceback (most recent call last):", '  File "x.py", line 1', "    f()", "ValueError: no", "and on"]
    assert [classify(line) for line in lines] == ["error"] * 4 + ["info"]


@given(st.text(max_size=200))
def test_every_line_has_a_severity(text):
    assert LineClassifier().severity(text) in SEVERITIES


def test_cutting_lines():
    cutter = LineCutter()
    assert cutter.feed(b"one\ntw") == ["one"]
    assert cutter.feed(b"o\r\nthree\n\n") == ["two", "three"]
    assert cutter.feed(b"10%\r20%\r") == ["10%"]  # the last carriage return may be half of a line end
    assert cutter.feed(b"30%\n") == ["20%", "30%"]
    assert cutter.feed(b"\x1b[31mred\x1b[0m text\nrest") == ["red text"]
    assert cutter.finish() == ["rest"]
    assert cutter.finish() == []


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_cutting_does_not_depend_on_the_chunks(chunks):
    at_once, piecewise = LineCutter(), LineCutter()
    whole = at_once.feed(b"".join(chunks)) + at_once.finish()
    parts = [line for chunk in chunks for line in piecewise.feed(chunk)] + piecewise.finish()
    assert whole == parts


def test_endless_line_is_cut():
    cutter = LineCutter()
    (line,) = cutter.feed(b"x" * (1 << 17))
    assert len(line) == 4002
    assert LineCutter(limit_chars=None).feed(b"x" * (1 << 17) + b"\n")[0] == "x" * (1 << 17)


def test_tail_is_bounded_and_the_file_is_whole(tmp_path):
    log = BuildLog()
    log.add(LogLine(0.0, "info", "before the file"))
    log.write_to((tmp_path / "log").open("w"))
    for index in range(3000):
        log.add(LogLine(1.5, "warning", f"line {index}", rank=1))
    log.close_file()
    log.add(LogLine(2.0, "error", "after the file"))
    assert [line.text for line in log.tail(2)] == ["line 2999", "after the file"]
    assert len(log.tail(10_000)) == 2000
    assert log.tail(0) == []
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 3001
    assert lines[1] == "[    1.500 s] rank 1 warning: line 0"
    assert log.counts == {"debug": 0, "info": 1, "warning": 3000, "error": 1}


def test_file_is_bounded(tmp_path):
    log = BuildLog()
    log.write_to((tmp_path / "log").open("w"))
    for _ in range(20_000):
        log.add(LogLine(0.0, "info", "x" * 4000))
    log.close_file()
    assert (tmp_path / "log").stat().st_size < 17 << 20
    assert (tmp_path / "log").read_text().endswith("(further lines are not kept)\n")
