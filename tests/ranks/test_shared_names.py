"""Memory that ranks share leaves no name behind, and names that killed ranks have left do not meet a new world."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trtbench_lab.distributed.mpi import local_launcher
from trtbench_lab.ranks.shared_names import PREFIX, forget_own_names, sweep_names


def named(folder: Path, name: str, age_s: float = 0.0) -> Path:
    path = folder / name
    path.write_bytes(b"\1" * mmap.PAGESIZE)
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def mapped(path: Path) -> mmap.mmap:
    with open(path, "r+b") as handle:
        return mmap.mmap(handle.fileno(), 0)


def test_old_names_that_nobody_has_mapped_are_swept(tmp_path: Path) -> None:
    left, young = named(tmp_path, PREFIX + "1f_0", 600), named(tmp_path, PREFIX + "2f_0")
    used, others = named(tmp_path, PREFIX + "3f_0", 600), named(tmp_path, "ucx_shm_4f", 600)
    with mapped(used):
        assert sweep_names(tmp_path) == 1
        assert sorted(tmp_path.iterdir()) == sorted([young, used, others])
    assert sweep_names(tmp_path) == 1
    assert not left.exists()
    assert not used.exists()
    assert sweep_names(tmp_path / "not there") == 0


def test_a_name_goes_and_its_memory_stays(tmp_path: Path) -> None:
    own, other = named(tmp_path, PREFIX + "1f_0"), named(tmp_path, PREFIX + "2f_0")
    with mapped(own) as memory:
        forget_own_names(tmp_path)
        assert list(tmp_path.iterdir()) == [other]
        assert memory[0] == 1
        forget_own_names(tmp_path)  # nothing is left to forget


# Takes the place of a killed world of the very process number, which `exec` keeps, and starts what follows.
PLANT = """
import os, sys
number = 0x811c9dc5
for byte in b"kvs_%d_0" % os.getpid():
    number = (number ^ byte) * 0x1000193 & 0xFFFFFFFF
with open("/dev/shm/mpich_shm_%x_0" % number, "wb") as left:
    left.write(b"\\1" * (1 << 21))
print(left.name, flush=True)
os.execv(sys.argv[1], sys.argv[1:])
"""
RANK = """
import os
from mpi4py import MPI
total = MPI.COMM_WORLD.allreduce(1)
names = {line.split()[5] for line in open("/proc/self/maps") if "/mpich_shm_" in line}
if MPI.COMM_WORLD.Get_rank() == 0:
    os.write(1, f"{total} {' '.join(names)}\\n".encode())
"""


@pytest.mark.mpi
def test_a_launcher_with_the_number_of_a_killed_world_starts_a_world_of_its_own() -> None:
    launcher = local_launcher()
    if launcher.kind != "MPICH":
        assert launcher.start == launcher.command  # no other MPI names memory by its launcher's number
        return
    done = subprocess.run(
        [sys.executable, "-c", PLANT, *launcher.start, "-n", "2", sys.executable, "-c", RANK],
        capture_output=True, text=True, timeout=60, env={**os.environ, **launcher.environment}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    left, said = done.stdout.splitlines()
    assert said == f"2 {left}"  # the name was to be this world's, and its memory is new
