"""NCCL's communicator from whatever a person has, and what must agree before an engine of several ranks is loaded."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest
import torch
from tests.backends.tensorrt.running import bound

from trtbench_lab.backends.tensorrt.communicator import NcclGroup, checked_group, nccl_group
from trtbench_lab.backends.tensorrt.contexts import Contexts
from trtbench_lab.errors import EngineError, EngineMismatchError
from trtbench_lab.ranks.distributed import TorchRanks
from trtbench_lab.specs import Mapping

TWO = Mapping(world_size=2, tp_size=2)


def torch_group(pointer: int = 4096, rank: int = 1, size: int = 2) -> SimpleNamespace:
    """Look like torch.distributed's group of the nccl backend."""
    backend = SimpleNamespace(_comm_ptr=lambda: pointer)
    return SimpleNamespace(_get_backend=lambda device: backend, rank=lambda: rank, size=lambda: size)


def test_a_capsule_holds_the_pointer():
    capsule = NcclGroup(4096, 0, 2).capsule()
    assert type(capsule).__name__ == "PyCapsule"
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    assert pointer(capsule, b"ncclComm_t") == 4096


@pytest.mark.parametrize(
    "source",
    [
        NcclGroup(4096, 1, 2),
        SimpleNamespace(pointer=4096, rank=1, size=2),
        SimpleNamespace(ptr=4096, rank=1, nranks=2),
        SimpleNamespace(ptr=lambda: 4096, rank=lambda: 1, size=lambda: 2),
        torch_group(),
    ],
    ids=["ours", "alike", "nccl4py", "methods", "torch"],
)
def test_communicators_of_every_kind(source):
    group = nccl_group(source)
    assert (group.pointer, group.rank, group.size) == (4096, 1, 2)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_ranks_of_this_project_hand_over_their_group_with_its_communicator_made(device, monkeypatch):
    """What `ranked_executor` passes; torch makes NCCL's communicator in the first collective at the latest."""
    calls: list[str] = []

    def reduce(x: torch.Tensor, group: object) -> None:
        assert group is ranks._group
        calls.append("all_reduce")

    monkeypatch.setattr(torch, "zeros", lambda count, device: torch.ones(count))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda where: calls.append("synchronize"))
    ranks = TorchRanks.__new__(TorchRanks)  # its constructor waits for the other ranks
    ranks.mapping, ranks.device, ranks._group = TWO.with_rank(1), torch.device(device), torch_group()
    ranks._dist = SimpleNamespace(all_reduce=reduce)
    found = checked_group(TWO.with_rank(1), ranks, "engine")
    assert (found.pointer, found.rank, found.size) == (4096, 1, 2)
    assert found.source is ranks._group
    assert calls == (["all_reduce", "synchronize"] if device == "cuda" else [])


def test_what_is_no_communicator():
    with pytest.raises(EngineError, match="A int is no NCCL communicator"):
        nccl_group(3)
    with pytest.raises(EngineError, match="is not initialised"):
        nccl_group(torch_group(pointer=0))
    gloo = SimpleNamespace(_get_backend=lambda device: object(), rank=lambda: 0, size=lambda: 2)
    with pytest.raises(EngineError, match="has no NCCL communicator"):
        nccl_group(gloo)


def test_one_rank_needs_none():
    assert checked_group(Mapping(), None, "engine") is None


def test_size_and_rank_must_agree():
    assert checked_group(TWO.with_rank(1), torch_group(), "engine").rank == 1
    with pytest.raises(EngineError, match="2 tensor-parallel ranks that must talk"):
        checked_group(TWO, None, "engine")
    with pytest.raises(EngineMismatchError, match="built for 2 tensor-parallel ranks; the communicator has 4"):
        checked_group(TWO, torch_group(size=4), "engine")
    with pytest.raises(EngineMismatchError, match="Rank 0 of the engine is loaded by rank 1"):
        checked_group(TWO.with_rank(0), torch_group(), "engine")


def test_every_context_gets_the_communicator_before_its_memory_and_its_first_run(running):
    executor = running.load()
    bound(executor)
    group = NcclGroup(4096, 0, 2)
    made = Contexts(
        executor.plans(), running.cuda, executor._stream, executor._errors, executor._held.recorder, group.capsule()
    )
    made.allocate(1 << 16)
    for bucket in ((1,), (2,)):
        made.get(0, 0, bucket)
    calls = running.recorder.named("IExecutionContext.set_communicator")
    assert len(calls) == 2
    for call in calls:
        names = [each.name.partition(".")[2] for each in running.recorder.calls if each.handle is call.handle]
        assert names == ["error_recorder=", "set_communicator", "set_device_memory"]
    running.recorder.behaviours["IExecutionContext.set_communicator"] = lambda context, communicator: False
    with pytest.raises(EngineError, match="refuses the communicator") as caught:
        made.get(0, 0, (3,))
    assert "libnccl" in caught.value.remedy
