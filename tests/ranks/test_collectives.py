"""The collectives that a model's ranks use, over MPI and over torch.distributed, against numpy."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from .worlds import SOURCES, on_ranks

PROGRAM = "tests.ranks.rank_collectives"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("count", [2, 4])
def test_ranks_that_a_program_has_started_by_their_environment(count):
    """As torchrun starts them, with gloo between CPUs."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (SOURCES, os.environ.get("PYTHONPATH")))),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-m", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]  # fmt: skip
    ended = [process.communicate(timeout=120) for process in started]
    for rank, (process, (output, errors)) in enumerate(zip(started, ended, strict=True)):
        assert process.returncode == 0, errors
        assert f"rank {rank} of {count}: gloo" in output


@pytest.mark.mpi
@pytest.mark.parametrize("count", [2, 4])
def test_ranks_of_mpi(count):
    """NCCL carries the data where there are GPUs enough, MPI elsewhere."""
    done = on_ranks(count, PROGRAM)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f" of {count}: ") == count
