"""Memory of one GPU that kernels of the others write to: CUDA IPC, or torch's symmetric memory where that fails.

NVLink multicast is neither needed nor used.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class PeerMemory:
    """One buffer a rank, mapped by all.

    Attributes
    ----------
    addresses
        (ranks,) int64 on the GPU: where each rank's buffer is, seen from here.
    kind
        How it was mapped.
    owner
        What keeps it alive.
    """

    addresses: torch.Tensor
    kind: str
    owner: Any


class _Handle(ctypes.Structure):
    _fields_ = [("reserved", ctypes.c_char * 64)]


def peer_memory(group: Any, ranks: int, nbytes: int, device: torch.device) -> tuple[PeerMemory | None, str]:
    """Return zeroed buffers of `nbytes`, mapped between the ranks of a process group, and a word on how or why not.

    Every rank of the group calls it, and all get the same kind.
    """
    import torch.distributed as dist

    reasons = []
    for kind, make in (("CUDA IPC", _by_ipc), ("symmetric memory", _by_symmetric_memory)):
        problem, made = "", None
        try:
            made = make(group, ranks, nbytes, device)
        except (RuntimeError, OSError, AttributeError, ImportError) as error:
            problem = f"{kind}: {str(error).splitlines()[0]}"
        problems: list[Any] = [None] * ranks
        dist.all_gather_object(problems, problem, group=group)
        if not any(problems):
            return made, kind
        reasons.append(next(problem for problem in problems if problem))
    return None, "; ".join(reasons)


def _by_ipc(group: Any, ranks: int, nbytes: int, device: torch.device) -> PeerMemory:
    import torch.distributed as dist

    runtime = _cuda_runtime()
    problem: RuntimeError | None = None
    own, handle = ctypes.c_void_p(), _Handle()
    try:
        _check(runtime.cudaMalloc(ctypes.byref(own), ctypes.c_size_t(nbytes)), "cudaMalloc")
        _check(runtime.cudaMemset(own, 0, ctypes.c_size_t(nbytes)), "cudaMemset")
        _check(runtime.cudaIpcGetMemHandle(ctypes.byref(handle), own), "cudaIpcGetMemHandle")
    except RuntimeError as error:
        problem = error
    torch.cuda.synchronize(device)
    handles: list[Any] = [None] * ranks
    # A rank that failed still takes part, so that the others do not wait for it.
    dist.all_gather_object(handles, None if problem else bytes(handle), group=group)
    if problem is not None or None in handles:
        raise problem or RuntimeError("another rank has no handle")
    rank = dist.get_rank(group)
    addresses = []
    for number, data in enumerate(handles):
        if number == rank:
            addresses.append(own.value)
            continue
        mapped = ctypes.c_void_p()
        lazily_enable_peer_access = 1
        opened = runtime.cudaIpcOpenMemHandle(
            ctypes.byref(mapped), _Handle.from_buffer_copy(data), ctypes.c_uint(lazily_enable_peer_access)
        )
        _check(opened, "cudaIpcOpenMemHandle")
        addresses.append(mapped.value)
    return PeerMemory(torch.tensor(addresses, dtype=torch.int64, device=device), "CUDA IPC", own)


def _by_symmetric_memory(group: Any, ranks: int, nbytes: int, device: torch.device) -> PeerMemory:
    os.environ.setdefault("TORCH_SYMM_MEM_DISABLE_MULTICAST", "1")
    import torch.distributed._symmetric_memory as symmetric

    buffer = symmetric.empty(nbytes, dtype=torch.uint8, device=device)
    buffer.zero_()
    torch.cuda.synchronize(device)
    handle = symmetric.rendezvous(buffer, group)
    addresses = torch.tensor(list(handle.buffer_ptrs), dtype=torch.int64, device=device)
    return PeerMemory(addresses, "symmetric memory", (buffer, handle))


def _cuda_runtime() -> Any:
    major = (torch.version.cuda or "").partition(".")[0]
    return ctypes.CDLL(f"libcudart.so.{major}")  # torch has loaded it: this is the same one


def _check(status: int, what: str) -> None:
    if status != 0:
        raise RuntimeError(f"{what} gives error {status}")
