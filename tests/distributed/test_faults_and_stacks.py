"""Errors of several ranks told once, and stacks read back from what faulthandler really writes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtbench_lab.distributed.engine import stack_name
from trtbench_lab.distributed.faults import RankError, distinct_failures, ranks_in_words
from trtbench_lab.distributed.rank import Failure, RankInfo, wait_for_gpu
from trtbench_lab.distributed.roster import Roster
from trtbench_lab.distributed.stacks import Place, places_from_dump, text_from_places


@pytest.mark.parametrize(
    ("ranks", "words"),
    [([3], "rank 3"), ([0, 1, 2, 5], "ranks 0-2, 5"), ([7, 0], "ranks 0, 7"), ([1, 0], "ranks 0-1")],
)
def test_ranks_in_words(ranks: list[int], words: str) -> None:
    assert ranks_in_words(ranks) == words


@given(st.sets(st.integers(0, 40), min_size=1))
def test_words_name_exactly_the_ranks(ranks: set[int]) -> None:
    named: list[int] = []
    for part in ranks_in_words(sorted(ranks)).split(" ", 1)[1].split(", "):
        first, _, last = part.partition("-")
        named += range(int(first), int(last or first) + 1)
    assert named == sorted(ranks)


def test_the_same_error_on_several_ranks_is_one() -> None:
    place = (("<trt_mpi 1>", 2),)
    failures = [
        (0, Failure("ValueError", "rank 0 has 3 tokens", ("a",), place)),
        (1, Failure("ValueError", "rank 1 has 7 tokens", ("b",), place)),
        (2, Failure("ValueError", "rank 2 has 3 tokens", ("c",), (("<trt_mpi 1>", 9),))),
        (3, Failure("KeyError", "rank 0 has 3 tokens", ("d",), place)),
    ]
    found = distinct_failures(failures)
    assert [shared.ranks for shared in found] == [(0, 1), (2,), (3,)]
    assert found[0].heading == "ranks 0-1: ValueError: rank 0 has 3 tokens"


def test_a_notebook_shows_each_traceback_once() -> None:
    error = RankError("It failed.", where="%%trt_mpi")
    error.failures = distinct_failures([(0, Failure("E", "", ("line",))), (1, Failure("E", "", ("line",)))])
    lines = error._render_traceback_()
    assert lines.count("line") == 1
    assert "ranks 0-1" in lines[0]
    assert "It failed." in lines[-1]


PROGRAM = """
import faulthandler, sys, threading, time
faulthandler.register(10, file=open(sys.argv[1], "ab", buffering=0), all_threads=True)
other = threading.Thread(target=time.sleep, args=(9,), daemon=True); other.start()
import os
exec(compile("import os\\ndef inner():\\n    os.kill(os.getpid(), 10)\\ninner()\\n", "<trt_mpi 7>", "exec"))
"""


def test_a_real_dump_leads_to_the_line_of_the_cell(tmp_path: Path) -> None:
    dump = tmp_path / "stack.txt"
    subprocess.run([sys.executable, "-c", PROGRAM, str(dump)], check=True, timeout=60)
    places = places_from_dump(dump.read_text(), "<trt_mpi 7>")
    assert [(place.line, place.function) for place in places] == [(4, "<module>"), (3, "inner")]
    text = text_from_places(places, "import os\ndef inner():\n    os.kill(x)\ninner()\n", "<trt_mpi 7>")
    assert text.splitlines() == ["  line 4 of the cell: inner()", "  line 3 of the cell: os.kill(x)"]


def test_a_stack_without_the_cell_is_that_of_the_interrupted_thread() -> None:
    dump = (
        'Thread 0x1 (most recent call first):\n  File "a.py", line 1 in waits\n\n'
        "Current thread 0x2 (most recent call first):\n"
        '  File "b.py", line 9 in inner\n  File "b.py", line ??? in outer\n'
    )
    assert places_from_dump(dump, "<trt_mpi 1>") == [Place("b.py", 0, "outer"), Place("b.py", 9, "inner")]
    assert places_from_dump("", "<trt_mpi 1>") == []
    assert "no Python code" in text_from_places([], "", "<trt_mpi 1>")


def test_a_dump_that_is_written_slowly_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [
        "Thread 0x1 (most recent call first):\n",
        '  File "a.py", line 1 in waits\n\n',
        'Current thread 0x2 (most recent call first):\n  File "b.py", ',
        "line 9 in inner\n",
        '  File "<trt_mpi 1>", line 1 in <module>\n',
    ]
    roster = Roster(1)
    roster.fill({0: RankInfo(0, 1, "here", 7, None)})
    path = tmp_path / stack_name("here", 7)
    path.write_text("an earlier dump\n")

    def dump() -> None:
        for piece in pieces:
            time.sleep(0.06)
            with path.open("a") as file:
                file.write(piece)

    monkeypatch.setattr(roster, "_signal", lambda ranks, number: threading.Thread(target=dump).start())
    stood = roster.where_they_stand([0], tmp_path, "x = inner()", "<trt_mpi 1>")
    assert stood[1].splitlines() == ["  line 1 of the cell: x = inner()", "    inner (b.py:9)"]


def test_a_rank_that_waits_for_its_gpu_after_the_cell_says_so() -> None:
    places = [Place("rank.py", 140, "run_cell"), Place("rank.py", 190, wait_for_gpu.__name__), Place("c.py", 1, "sync")]
    assert "waiting for what the cell has queued on its GPU" in text_from_places(places, "", "<trt_mpi 1>")


def test_an_error_that_the_gpu_tells_late_is_the_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    def synchronize() -> None:
        raise RuntimeError("an illegal memory access")

    assert wait_for_gpu() is None  # CUDA was never started
    cuda = types.SimpleNamespace(is_initialized=lambda: True, synchronize=synchronize)
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    assert str(wait_for_gpu()) == "an illegal memory access"


@pytest.mark.parametrize("blank", ["", "\n", "  \n\n"])
def test_lines_are_counted_as_ipython_counts_them(blank: str) -> None:
    from IPython.core.inputtransformer2 import leading_empty_lines

    cell = f"{blank}first()\n\nthird()\n"
    run = leading_empty_lines(cell.splitlines(keepends=True))
    at = run.index("third()\n") + 1
    place = Place("<trt_mpi 1>", at, "<module>")
    assert text_from_places([place], cell, "<trt_mpi 1>") == "  line 3 of the cell: third()"


def test_deep_stacks_keep_their_ends() -> None:
    places = [Place("lib.py", number, f"f{number}") for number in range(30)]
    lines = text_from_places(places, "", "<trt_mpi 1>").splitlines()
    assert "f0 " in lines[0]
    assert "f29 " in lines[-1]
    assert len(lines) == 6
