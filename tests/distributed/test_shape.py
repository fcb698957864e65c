"""What a world is to be: what a user left open is completed, and what does not fit is refused before a start."""

from __future__ import annotations

import pytest

from trtbench_lab.distributed import shape
from trtbench_lab.distributed.slurm import SlurmOptions
from trtbench_lab.distributed.world import World
from trtbench_lab.errors import SpecError


def test_ranks_and_sizes_complete_each_other() -> None:
    assert (World(4, pp_size=2).tp_size, World(tp_size=2, pp_size=2).world_size) == (2, 4)
    assert World(launcher="slurm", slurm=SlurmOptions(nodes=2, ntasks_per_node=8)).world_size == 16


@pytest.mark.parametrize(("gpus", "ranks"), [([], 2), (["0"], 2), (["0", "1", "2", "3"], 4)])
def test_there_are_as_many_ranks_as_gpus_and_at_least_two(
    gpus: list[str], ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shape, "gpus_here", lambda: gpus)
    assert World().world_size == ranks


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(SpecError, match="4 ranks are not tp_size 3"):
        World(4, tp_size=3)
    with pytest.raises(SpecError, match="no launcher 'ssh'"):
        World(2, launcher="ssh")


def test_a_job_may_wait_in_its_queue_for_ever_and_ranks_of_this_machine_may_not() -> None:
    def limit_s(launcher: str, start_timeout_s: float | None) -> float | None:
        asked = {"profile": None, "tp_size": None, "pp_size": 1, "slurm": None}
        return shape.WorldShape.of(2, launcher=launcher, start_timeout_s=start_timeout_s, **asked).start_timeout_s

    assert (limit_s("local", None), limit_s("local", 7.0)) == (120.0, 7.0)
    assert (limit_s("slurm", None), limit_s("slurm", 7.0)) == (None, 7.0)
