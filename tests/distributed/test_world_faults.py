"""Everything that ranks may do to a notebook; each test states how long it may take, on a busy machine too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from trtbench_lab.distributed import mpi, places
from trtbench_lab.distributed.faults import DeadRankError, RankError, StuckRanksError
from trtbench_lab.distributed.keeper import processes_of
from trtbench_lab.distributed.world import World
from trtbench_lab.errors import WorldError
from trtbench_lab.ranks.shared_names import FOLDER, PREFIX

from .conftest import wait_for

pytestmark = pytest.mark.mpi
COLLECTIVE = "def meet():\n    comm.Barrier()\n"


def test_a_rank_raises_while_another_waits_in_a_collective(world: World) -> None:
    began = time.monotonic()
    with pytest.raises(RankError, match="could not be interrupted") as caught:
        world.run(COLLECTIVE + "if rank == 1:\n    raise ValueError('rank 1 has had enough')\nmeet()")
    (shared,) = caught.value.failures
    assert shared.ranks == (1,)
    assert any("rank 1 has had enough" in line for line in shared.failure.traceback)
    assert "line 2 of the cell: comm.Barrier()" in str(caught.value)  # where rank 0 was
    assert world.run("comm.allreduce(1)").values == [2, 2]
    assert time.monotonic() - began < 15


def test_a_rank_is_killed_in_a_collective(world: World) -> None:
    pid = world.status()[1].pid
    killed_at = [0.0]

    def kill() -> None:
        wait_for(lambda: world.status()[1].state == "busy", 10)
        time.sleep(0.3)
        killed_at[0] = time.monotonic()
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(DeadRankError, match="Rank 1 died") as caught:
        world.run(COLLECTIVE + "if rank == 0:\n    meet()\nimport time\ntime.sleep(60)")
    assert time.monotonic() - killed_at[0] < 3
    thread.join()
    assert f"pid {pid}" in str(caught.value)
    assert "%trt_mpi restart" in str(caught.value)
    assert world.state == "down"
    assert [status.state for status in world.status()] == ["stopped", "dead"]
    left = FOLDER / f"{PREFIX}{os.getpid():x}_left"  # by ranks that were killed while they started, long ago
    left.touch()
    os.utime(left, (0, 0))
    world.restart()
    assert not left.exists()
    assert world.run("comm.allreduce(1)").values == [2, 2]


def test_a_rank_that_dies_between_cells_is_replaced_by_the_next(world: World) -> None:
    os.kill(world.status()[0].pid, signal.SIGKILL)
    assert wait_for(lambda: world.status()[0].state == "dead", 20)
    assert world.run("comm.allreduce(rank)").values == [1, 1]


def test_the_user_interrupts_a_collective(world: World) -> None:
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    began = time.monotonic()
    with pytest.raises(StuckRanksError, match="was interrupted"):
        world.run(COLLECTIVE + "if rank == 0:\n    meet()\nimport time\ntime.sleep(60)")
    assert time.monotonic() - began < 1 + 5
    assert world.run("comm.allreduce(1)").values == [2, 2]


def test_a_cell_that_runs_out_of_its_time_says_where_each_rank_stood(world: World) -> None:
    began = time.monotonic()
    with pytest.raises(StuckRanksError, match=r"within its 1 s") as caught:
        world.run(COLLECTIVE + "import time\nif rank == 0:\n    meet()\ntime.sleep(60)", timeout_s=1)
    assert time.monotonic() - began < 10
    text = str(caught.value)
    assert "rank 0 (engine " in text
    assert "line 2 of the cell: comm.Barrier()" in text
    assert "line 6 of the cell: time.sleep(60)" in text
    assert world.run("comm.allreduce(1)").values == [2, 2]


def test_other_ranks_may_finish_what_they_do(world: World) -> None:
    pids = [status.pid for status in world.status()]
    with pytest.raises(RankError) as caught:
        world.run("import time\nif rank == 1:\n    raise ValueError\ntime.sleep(1)\n'done'", grace_s=30)
    assert caught.value.results[0] == "done"
    assert world.run("rank").values == [0, 1]
    assert [status.pid for status in world.status()] == pids


PARENT = """
import sys, time
from trtbench_lab.distributed import World
world = World(2)
world.start()
print(world.id, flush=True)
world.run("comm.Barrier() if rank == 0 else __import__('time').sleep(600)")
"""


def test_no_rank_outlives_a_killed_kernel(child_environment: dict[str, str]) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], env=child_environment, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    world_id = parent.stdout.readline().strip()
    processes = processes_of(world_id)
    folder = Path(processes[0].environ()["TRTBENCH_WORLD_FOLDER"])
    assert len(processes) >= 4
    assert folder.is_dir()
    time.sleep(0.5)  # into the collective
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_for(lambda: not processes_of(world_id), 10), processes_of(world_id)
    assert wait_for(lambda: not folder.exists(), 5)


def test_no_rank_outlives_a_program_that_ends(child_environment: dict[str, str]) -> None:
    text = PARENT.rsplit("\n", 2)[0]
    done = subprocess.run(
        [sys.executable, "-c", text], env=child_environment, capture_output=True, text=True, timeout=280, check=True
    )
    assert not processes_of(done.stdout.strip())


def test_a_start_that_fails_gives_the_launchers_own_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mpiexec = tmp_path / "mpiexec"
    mpiexec.write_text(
        "#!/bin/sh\necho 'There are not enough slots available in the system to satisfy the 2 slots' >&2\nexit 1\n"
    )
    mpiexec.chmod(0o755)
    monkeypatch.setattr(places, "local_launcher", lambda: mpi.Launcher((str(mpiexec),), "Open MPI", {}))
    world = World(2)
    with pytest.raises(WorldError, match="not enough slots available") as caught:
        world.start()
    assert "%trt_doctor --mpi" in str(caught.value)
    assert not processes_of(world.id)
    assert world.state == "stopped"


def test_ranks_that_do_not_know_each_other_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mpiexec = tmp_path / "mpiexec"  # starts two programs, as the launcher of another MPI does
    mpiexec.write_text('#!/bin/sh\nshift 2\n"$@" & "$@"\n')
    mpiexec.chmod(0o755)
    monkeypatch.setattr(
        places, "local_launcher", lambda: mpi.Launcher((str(mpiexec),), "MPICH", {"UCX_TLS": "self,sm"})
    )
    with pytest.raises(WorldError, match="each believes to be one of 1"):
        World(2).start()
