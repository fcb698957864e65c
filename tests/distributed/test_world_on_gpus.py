"""Cells on two GPUs: each rank has its own as ``cuda:0``, and small sums go through the other's memory."""

from __future__ import annotations

import subprocess
import time

import pytest

from trtbench_lab.distributed.faults import RankError
from trtbench_lab.distributed.world import World

pytestmark = [pytest.mark.mpi, pytest.mark.gpu, pytest.mark.timeout(300)]

WHO = """
import torch
torch.ones(1, device="cuda")
str(torch.cuda.get_device_properties(0).uuid), torch.cuda.current_device(), torch.cuda.device_count()
"""

SUMS = """
import torch, torch.distributed as dist
from trtbench_lab.ranks import communicator_for
ranks = communicator_for(mapping)
kind = None if ranks.one_shot is None else ranks.one_shot.memory.kind
generator = torch.Generator(ranks.device).manual_seed(rank)
rows = []
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    for count in (8, 1026, 8192, 65536):
        x, residual = (torch.randn(count, generator=generator, device=ranks.device).to(dtype) for _ in range(2))
        dist.broadcast(residual, 0)
        parts = [torch.empty_like(x) for _ in range(world_size)]
        dist.all_gather(parts, x)
        library = x.clone()
        dist.all_reduce(library)
        ours = ranks.all_reduce(x.clone())
        added = ranks.reduce_add(x.clone(), residual.clone())
        exact = (residual.float() + parts[0].float() + parts[1].float()).to(dtype)
        rows.append((
            str(dtype), count, bool(kind and ranks.one_shot.takes(x)), torch.equal(ours, library),
            torch.equal(added, exact), ours.view(torch.uint8).cpu().numpy().tobytes(),
        ))
str(ranks.device), kind, rows
"""

WAIT = """
if rank == 1:
    raise ValueError("this rank does not come")
dist.all_reduce(torch.ones(1 << 20, device=ranks.device))
"""
IN_THE_CELL = WAIT + "torch.cuda.synchronize()"


def uuids_by_number() -> dict[str, str]:
    """GPUs as nvidia-smi numbers them."""
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"], capture_output=True, text=True, check=True
    )
    pairs = (line.split(", ") for line in done.stdout.splitlines())
    return {number: uuid.removeprefix("GPU-") for number, uuid in pairs}


def test_every_rank_has_its_own_gpu_first_and_is_shown_with_it(world: World) -> None:
    physical = uuids_by_number()
    shown = [status.gpu for status in world.status()]
    assert shown == ["0", "1"]
    for gpu, (uuid, current, count) in zip(shown, world.run(WHO).values, strict=True):
        assert uuid == physical[gpu]
        assert (current, count) == (0, 2)


def test_small_sums_in_cells_go_through_the_peers_memory(world: World) -> None:
    first, second = world.run(SUMS).values
    assert first[:2] == second[:2] == ("cuda:0", "CUDA IPC")
    assert first[2] == second[2]  # the same bits on both
    for dtype, count, ours, as_nccl, exact, _ in first[2]:
        assert ours, (dtype, count)
        assert as_nccl, (dtype, count)  # two addends: one rounding, whoever adds
        assert exact, (dtype, count)


@pytest.mark.parametrize("cell", [WAIT, IN_THE_CELL], ids=["after", "within"])
def test_a_rank_whose_gpu_waits_for_another_is_given_up_and_the_world_is_usable_again(world: World, cell: str) -> None:
    world.run(SUMS)
    began = time.monotonic()
    with pytest.raises(RankError, match="rank 1: ValueError: this rank does not come") as caught:
        world.run(cell)
    assert "rank 0" in str(caught.value.details)
    assert ("torch.cuda.synchronize()" in str(caught.value.details)) == (cell is IN_THE_CELL)
    assert world.run("comm.allreduce(rank + 1)").values == [3, 3]
    took_s = time.monotonic() - began
    print(f"usable again after {took_s:.1f} s")
    assert took_s < 15
    assert world.run(SUMS).values[0][:2] == ("cuda:0", "CUDA IPC")
