"""Which GPUs of a group share memory, and which one a rank takes, where ranks number the same GPUs differently."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from trtbench_lab.errors import EngineError
from trtbench_lab.ranks import Launch, distributed, gpus, mpi
from trtbench_lab.ranks.launch import OWN_GPU
from trtbench_lab.ranks.peers import Sight, sight_of, why_apart


def stand_in_for_cuda(monkeypatch, uuids, blocked=()):
    """Let torch see GPUs of these UUIDs; no memory goes between the pairs in `blocked`."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(uuids))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: SimpleNamespace(uuid=uuids[number_of(gpu)]))
    apart = [{*pair} for pair in blocked]
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda i, j: {uuids[i], uuids[j]} not in apart)


def number_of(gpu):
    return gpu.index if isinstance(gpu, torch.device) else gpu


def seen_by_ranks(monkeypatch, orders, blocked=()):
    found = []
    for uuids in orders:
        stand_in_for_cuda(monkeypatch, uuids, blocked)
        found.append(sight_of(torch.device("cuda", 0)))
    return found


def test_ranks_that_see_their_own_gpu_first_share_memory(monkeypatch):
    group = seen_by_ranks(monkeypatch, [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]])
    assert [sight.own for sight in group] == ["a", "b", "c"]
    assert group[1].reached == {"a", "c"}
    assert why_apart(group) == ""


def test_only_the_groups_own_gpus_need_to_reach_each_other(monkeypatch):
    # Under mpirun all ranks number GPUs alike, and the third is of another group.
    stand_in_for_cuda(monkeypatch, ["a", "b", "c"], blocked=[("a", "c"), ("b", "c")])
    assert why_apart([sight_of(torch.device("cuda", index)) for index in range(2)]) == ""


@pytest.mark.parametrize(
    ("orders", "blocked", "words"),
    [
        ([["a"], ["b"]], [], "rank 0 does not see the GPU of rank 1"),
        ([["a", "b"], ["a", "b"]], [], "ranks 0 and 1 share a GPU"),
        ([["a", "b"], ["b", "a"]], [("a", "b")], "the GPU of rank 0 does not reach the memory of rank 1's"),
        ([["a", "b"], ["b"]], [], "rank 1 does not see the GPU of rank 0"),
    ],
    ids=["own alone", "one for two", "no peer access", "one sided"],
)
def test_why_a_group_does_not_share_memory(orders, blocked, words, monkeypatch):
    assert words in why_apart(seen_by_ranks(monkeypatch, orders, blocked))


def test_a_rank_without_triton_keeps_all_from_it():
    both = frozenset("ab")
    group = [Sight("a", both, frozenset("b")), Sight("b", both, frozenset("a"), triton=False)]
    assert "rank 1 has no Triton" in why_apart(group)


@pytest.mark.parametrize(
    ("own", "visible", "local", "index"),
    [
        ("6", ["b", "a"], 1, 0),  # in a cell: its own stands first
        ("", ["a", "b"], 1, 1),  # under mpirun
        ("", ["b"], 1, 0),  # a launcher has given each rank one
    ],
)
def test_the_gpu_that_a_rank_takes(own, visible, local, index, monkeypatch):
    stand_in_for_cuda(monkeypatch, visible)
    monkeypatch.setenv(OWN_GPU, own)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6" if len(visible) == 1 else "6,4")
    monkeypatch.setattr(distributed, "launched", lambda: Launch("mpi", 5, 8, local))
    assert distributed.rank_device() == torch.device("cuda", index)


def test_more_ranks_than_gpus_are_refused(monkeypatch):
    stand_in_for_cuda(monkeypatch, ["a", "b"])
    monkeypatch.setenv(OWN_GPU, "")
    monkeypatch.setattr(distributed, "launched", lambda: Launch("mpi", 2, 3, 2))
    with pytest.raises(EngineError, match=r"number 2 on this host, which has 2 GPU"):
        distributed.rank_device()


def test_ranks_that_were_dealt_the_same_gpu_are_refused(monkeypatch):
    stand_in_for_cuda(monkeypatch, ["a"])
    world = SimpleNamespace(COMM_WORLD=SimpleNamespace(allgather=lambda own: ["b", own, own]))
    monkeypatch.setattr(mpi, "load_mpi", lambda: world)
    with pytest.raises(EngineError, match="Ranks 1 and 2 have the same GPU"):
        distributed._check_gpus(torch.device("cuda", 0))


def test_gpus_are_counted_without_cuda(tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "_DRIVER", tmp_path / "driver")
    monkeypatch.setattr(gpus, "_DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus.gpus_here() == []
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert gpus.gpus_here() == ["0", "1"]
    for name in ("0000:0a:00.0", "0000:0b:00.0", "0000:0c:00.0"):
        (tmp_path / "driver" / "gpus" / name).mkdir(parents=True)
    assert gpus.gpus_here() == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert gpus.gpus_here() == []
