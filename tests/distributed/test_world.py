"""Cells on two real ranks."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from trtbench_lab.distributed import mpi
from trtbench_lab.distributed.faults import RankError
from trtbench_lab.distributed.keeper import processes_of
from trtbench_lab.distributed.view import LineView, NoView
from trtbench_lab.distributed.world import World, current_world
from trtbench_lab.errors import SpecError, WorldError
from trtbench_lab.progress import ProgressEvent
from trtbench_lab.ranks.shared_names import PREFIX

pytestmark = pytest.mark.mpi


class Watching(NoView):
    """Notes what it is told, and when."""

    def __init__(self) -> None:
        self.texts: list[tuple[float, int, str]] = []
        self.displays: list[tuple[int, Mapping[str, Any]]] = []
        self.progress: list[tuple[int, ProgressEvent]] = []

    def on_text(self, rank: int, stream: str, text: str) -> None:
        self.texts.append((time.monotonic(), rank, text))

    def on_display(self, rank: int, content: Mapping[str, Any]) -> None:
        self.displays.append((rank, content))

    def on_progress(self, rank: int, event: ProgressEvent) -> None:
        self.progress.append((rank, event))


def test_a_cell_finds_its_rank_and_its_world(world: World) -> None:
    results = world.run(
        "import os\nrank, world_size, comm.allreduce(rank + 1), mapping.tp_size, mapping.rank, os.getpid()"
    )
    assert [value[:5] for value in results.values] == [(0, 2, 3, 2, 0), (1, 2, 3, 2, 1)]
    assert [value[5] for value in results.values] == [status.pid for status in world.status()]


def test_variables_stay_and_are_brought_back_by_name(world: World) -> None:
    world.run("kept = 10 * rank")
    assert world.run("shown = kept + 1\n'another value'", name="shown").values == [1, 11]
    assert world.run("kept", name="not_set_here").values == [0, 10]
    assert world.run("pass").values == [None, None]
    assert world.run("kept", wants_value=False).values == [None, None]


def test_a_part_of_the_ranks(world: World) -> None:
    results = world.run("rank", ranks=[1])
    assert results.ranks == (1,)
    assert results[1] == 1
    with pytest.raises(SpecError, match="no rank 7 in a world of 2"):
        world.run("rank", ranks=[7])


def test_what_cannot_travel_stays_as_text(world: World) -> None:
    results = world.run("import threading\nthreading.Lock()", ranks=[0])
    assert results[0].startswith("<unlocked _thread.lock")
    assert "cannot leave its rank" in results.notes[0]


def test_ranks_work_in_the_notebooks_folder(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert world.run("import os\nos.getcwd()").values == [str(tmp_path)] * 2


def test_output_comes_while_the_cell_runs(world: World) -> None:
    watching = Watching()
    world.run("import time\nprint('early', rank)\ntime.sleep(2)\nprint('late', rank)", view=watching)
    ended = time.monotonic()
    early = [when for when, _, text in watching.texts if "early" in text]
    assert len(early) == 2
    assert all(ended - when > 1 for when in early)
    printed = "".join(text for _, _, text in watching.texts)
    assert all(f"{word} {rank}\n" in printed for word in ("early", "late") for rank in (0, 1))


def test_what_a_call_printed_is_kept_when_it_ended_before_anyone_looked(world: World) -> None:
    asked = world.ask(0, print, "early")
    assert asked.wait_for_output(60)
    assert world.metadata_of(asked)["stdout"] == "early\n"


def test_lines_of_ranks_are_never_mixed(world: World) -> None:
    output = io.StringIO()
    results = world.run("for i in range(200): print('x' * 50, rank)", view=LineView(output))
    lines = output.getvalue().splitlines()
    assert sorted(lines) == [f"[{rank}] {'x' * 50} {rank}" for rank in (0, 1) for _ in range(200)]
    assert results.stdout[1].count("\n") == 200


def test_displays_and_progress_come_with_their_rank(world: World) -> None:
    watching = Watching()
    world.run(
        "from IPython.display import HTML\n"
        "from trtbench_lab.progress import phase\n"
        "with phase('count', progress, total=3, unit='step') as counter:\n"
        "    counter.advance(3)\n"
        "HTML(f'<b>{rank}</b>')",
        view=watching,
    )
    assert {(rank, content["data"]["text/html"]) for rank, content in watching.displays} == {
        (0, "<b>0</b>"),
        (1, "<b>1</b>"),
    }
    last = dict(watching.progress)
    assert [(rank, last[rank].phase, last[rank].done, last[rank].state) for rank in (0, 1)] == [
        (0, "count", 3, "done"),
        (1, "count", 3, "done"),
    ]


def test_the_magics_work_in_a_rank(world: World, tmp_path: Path) -> None:
    line = f"%trt_convert demo:llama --output_dir {tmp_path}/of_{{rank}} --dtype float32 --quiet -o made;"
    results = world.run(line, name="made", ranks=[1])
    assert json.loads((tmp_path / "of_1" / "config.json").read_text())["dtype"] == "float32"
    assert results[1].kind == "convert"
    with pytest.raises(RankError, match="no flag --dtipe") as caught:
        world.run("%trt_convert demo --dtipe float32")
    assert len(caught.value.failures) == 1
    told = "".join(caught.value.failures[0].failure.traceback)
    assert "Did you mean --dtype" in told
    assert "Traceback" not in told


def test_an_error_of_all_is_told_once_and_leaves_the_ranks_alone(world: World) -> None:
    pids = [status.pid for status in world.status()]
    with pytest.raises(RankError) as caught:
        world.run("def f(x):\n    return 1 / x\nf(0)")
    (shared,) = caught.value.failures
    assert shared.ranks == (0, 1)
    assert shared.failure.kind == "ZeroDivisionError"
    assert [place[1] for place in shared.failure.place] == [3, 2]
    assert [status.state for status in world.status()] == ["failed", "failed"]
    assert world.run("comm.allreduce(1)").values == [2, 2]
    assert [status.pid for status in world.status()] == pids


def test_a_syntax_error_is_the_cells(world: World) -> None:
    with pytest.raises(RankError, match="SyntaxError"):
        world.run("def f(:")


def test_half_a_broadcast_does_not_reach_the_next_cell(world: World) -> None:
    # Rank 0's broadcast is on its way when rank 1 fails; the next broadcast must not receive it.
    with pytest.raises(RankError, match="rank 1: ValueError"):
        world.run("if rank == 1: raise ValueError('no')\ncomm.bcast('stale')")
    assert world.run("comm.bcast('fresh' if rank == 0 else None)").values == ["fresh", "fresh"]


def test_a_second_cell_is_refused_while_one_runs(world: World) -> None:
    pending = world.run_in_background("import time\ntime.sleep(1.5)\nrank")
    assert not pending.done
    with pytest.raises(WorldError, match="still runs on ranks 0-1"):
        world.run("1")
    assert [status.state for status in world.status()] == ["busy", "busy"]
    with pytest.raises(TimeoutError):
        pending.wait(0.05)
    assert pending.wait(60).values == [0, 1]
    assert pending.done


def test_python_that_runs_can_be_interrupted_and_keeps_its_variables(world: World) -> None:
    pids = [status.pid for status in world.status()]
    world.run("kept = 'still here'")
    pending = world.run_in_background("import time\nwhile True: time.sleep(0.01)")
    time.sleep(0.3)
    began = time.monotonic()
    pending.interrupt()
    with pytest.raises(RankError, match="was interrupted"):
        pending.wait(30)
    assert time.monotonic() - began < 5
    assert world.run("kept").values == ["still here"] * 2
    assert [status.pid for status in world.status()] == pids


def test_status_can_be_asked_from_a_thread_while_a_cell_runs(world: World) -> None:
    seen: list[Any] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            seen.append(world.status())

    thread = threading.Thread(target=look)
    thread.start()
    world.run("print('a line')\nimport time\ntime.sleep(0.5)")
    over.set()
    thread.join()
    assert any([one.state for one in statuses] == ["busy", "busy"] for statuses in seen)
    assert world.status()[1].last_line == "a line"
    assert [one.rank for one in world.status()] == [0, 1]
    assert all(one.host == os.uname().nodename for one in world.status())


def test_nothing_listens_beyond_loopback_and_keys_are_private(world: World) -> None:
    processes = processes_of(world.id)
    assert len(processes) >= 4  # keeper, controller, launcher and two ranks
    if mpi.local_launcher().kind == "Open MPI":  # its launcher knows no loopback, which the doctor says
        processes = [process for process in processes if "mpi" not in process.name() and "prte" not in process.name()]
    listening = [
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) == {"127.0.0.1"}
    folder = Path(processes[0].environ()["TRTBENCH_WORLD_FOLDER"])
    assert folder.stat().st_mode & 0o077 == 0
    files = list(folder.rglob("*-client.json"))
    assert all(json.loads(file.read_text())["key"] for file in files)
    assert files


def test_shared_memory_of_the_ranks_has_no_name_that_a_kill_could_leave_behind(world: World) -> None:
    lines = "\n".join(world.run("open('/proc/self/maps').read()").values).splitlines()
    assert [line for line in lines if PREFIX in line and not line.endswith("(deleted)")] == []


def test_a_started_world_is_the_notebooks() -> None:
    own = World(1)  # the shared one need not be: another test's may have been started and stopped since
    own.start()
    try:
        assert current_world() is own
        with pytest.raises(WorldError, match="run already"):
            own.start()
    finally:
        own.stop()
    assert current_world() is None
