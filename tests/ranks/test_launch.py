"""What launchers leave in the environment, micro-batches, and the one-kernel sum in Triton's interpreter."""

from __future__ import annotations

import pytest
from tests.ranks.worlds import on_ranks

from trtbench_lab.backends.torch.pipeline import micro_batches, token_batches
from trtbench_lab.ranks import Launch, launched


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Launch()),
        (
            {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
            Launch("mpi", 1, 4, 0),
        ),
        ({"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0"}, Launch("mpi", 0, 2, 0)),
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, Launch()),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "3", "MASTER_ADDR": "localhost"}, Launch("env", 3, 8, 3)),
        ({"RANK": "3", "WORLD_SIZE": "8"}, Launch()),  # a shell's own variables, without where to meet
        ({"SLURM_NTASKS": "8"}, Launch()),  # the batch script itself is no rank
    ],
)
def test_the_environment_says_which_rank_this_is(environment, expected):
    assert launched(environment) == expected


def test_micro_batches_hold_every_row_once():
    assert micro_batches(1, 4) == [(0, 1)]
    assert micro_batches(5, 2) == [(0, 2), (2, 5)]
    assert micro_batches(8, 4) == [(0, 2), (2, 4), (4, 6), (6, 8)]


def test_pieces_of_packed_rows_have_about_as_many_tokens():
    assert token_batches([0, 1, 2, 3, 40], 2) == [(0, 3), (3, 4)]  # three that decode, then a prompt
    assert token_batches([0, 40, 41, 42], 2) == [(0, 1), (1, 3)]
    assert token_batches([0, 1, 2, 3, 4], 2) == [(0, 2), (2, 4)]
    assert token_batches([0, 9], 4) == [(0, 1)]


@pytest.mark.mpi
def test_the_one_kernel_sum_is_exact_between_processes():
    done = on_ranks(3, "tests.ranks.one_shot_sums")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "sums agree on 3 ranks\n"


@pytest.mark.mpi
def test_ranks_that_hang_end_and_tell_where_they_stood():
    done = on_ranks(2, "timeit", "-n", "1", "-s", "import time", "time.sleep(600)", timeout_s=2)
    assert done.returncode != 0
    assert done.stderr.count("One rank had not ended after") == 2
    assert "timeit.py" in done.stderr
