"""Ranks on GPUs: NCCL through torch.distributed, capturable into CUDA graphs; gloo where no MPI joins CPUs."""

from __future__ import annotations

import os
import socket
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from ..errors import EngineError
from ..specs import Mapping
from .launch import OWN_GPU, launched

_PATIENCE = timedelta(minutes=10)


class TorchRanks:
    """See `protocol.RankCommunicator`.

    Parameters
    ----------
    mapping
        This rank's place.
    custom_all_reduce
        Do small sums with `one_shot.OneShot` where the GPUs of the group reach each other's memory.
    """

    def __init__(self, mapping: Mapping, *, custom_all_reduce: bool = True) -> None:
        import torch.distributed as dist

        self.mapping = mapping
        self.device = start_process_group()
        self.name = "NCCL" if self.device.type == "cuda" else "gloo"
        self._dist: Any = dist
        self._group: Any = None
        for stage in range(mapping.pp_size):  # every rank takes part in making every group
            group = dist.new_group(mapping.with_rank(stage * mapping.tp_size).tp_group)
            if stage == mapping.pp_rank:
                self._group = group
        self._sent: list[tuple[Any, torch.Tensor]] = []
        self.one_shot: Any = None
        if custom_all_reduce and self.device.type == "cuda" and mapping.tp_size > 1:
            from .one_shot import one_shot_for

            self.one_shot = one_shot_for(self._group, mapping, self.device)

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        if self.mapping.tp_size == 1:
            return x
        if self.one_shot is not None and self.one_shot.takes(x):
            return self.one_shot.all_reduce(x)  # type: ignore[no-any-return]
        x = x.contiguous()
        self._dist.all_reduce(x, group=self._group)
        return x

    def all_gather(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        ranks = self.mapping.tp_size
        if ranks == 1:
            return x
        x = x.contiguous()
        gathered = x.new_empty((ranks, *x.shape))
        # The name before torch 2.13, and the one since.
        gather = getattr(self._dist, "all_gather_single", self._dist.all_gather_into_tensor)
        gather(gathered.flatten(0, 1), x, group=self._group)
        dim %= x.dim()
        return gathered.movedim(0, dim).flatten(dim, dim + 1).contiguous()  # kernels read rows as they lie

    def reduce_add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        if self.one_shot is not None and self.one_shot.takes(x, residual):
            return self.one_shot.all_reduce(x, residual)  # type: ignore[no-any-return]
        return residual.add_(self.all_reduce(x))

    def process_group(self) -> Any:
        """Return torch's group of the ranks that share layers; every one of them calls it.

        Its communicator is made at the first collective at the latest, and whoever takes over its pointer needs it
        made.
        """
        if self.device.type == "cuda":
            self._dist.all_reduce(torch.zeros(1, device=self.device), group=self._group)
            torch.cuda.synchronize(self.device)
        return self._group

    def send(self, x: torch.Tensor, to: int) -> None:
        x = x.contiguous()
        if self.device.type == "cuda":
            self._dist.send(x, to)
        else:
            self._sent.append((self._dist.isend(x, to), x))

    def receive(self, x: torch.Tensor, source: int) -> torch.Tensor:
        self._dist.recv(x, source)
        return x

    def flush(self) -> None:
        for work, _ in self._sent:
            work.wait()
        self._sent.clear()

    def broadcast(self, x: torch.Tensor, root: int = 0) -> torch.Tensor:
        whole = x.contiguous()
        self._dist.broadcast(whole, root)
        return x if whole is x else x.copy_(whole)

    def close(self) -> None:
        self.flush()
        if self.one_shot is not None:
            self.one_shot.close()
            self.one_shot = None


def start_process_group() -> torch.device:
    """Start torch's process group for this world, once; return the device of this rank.

    Ranks of one host meet in a file and talk over the loopback interface alone; those of several meet where rank 0
    listens.
    """
    import torch.distributed as dist

    launch = launched()
    device = rank_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if dist.is_initialized():
        return device
    backend = "nccl" if device.type == "cuda" else "gloo"
    device_id = device if device.type == "cuda" else None
    if launch.kind == "env":
        dist.init_process_group(backend, timeout=_PATIENCE, device_id=device_id)
        return device
    _check_gpus(device)
    store = _store_over_mpi()
    dist.init_process_group(
        backend, store=store, rank=launch.rank, world_size=launch.size, timeout=_PATIENCE, device_id=device_id
    )
    return device


def rank_device() -> torch.device:
    """Return this rank's device: the GPU that its launcher has put first, else that of its number on its host.

    The CPU where torch sees no GPU.

    Raises
    ------
    EngineError
        When the host has fewer GPUs than ranks.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if os.environ.get(OWN_GPU):
        return torch.device("cuda", 0)
    launch, count = launched(), torch.cuda.device_count()
    local = launch.rank if launch.local_rank is None else launch.local_rank
    if count == 1 and "," not in os.environ.get("CUDA_VISIBLE_DEVICES", ","):
        local = 0  # a launcher has given each rank a GPU of its own
    if local >= count:
        raise EngineError(
            f"Rank {launch.rank} is number {local} on this host, which has {count} GPU(s).",
            where="ranks",
            remedy="Start as many ranks a host as it has GPUs.",
        )
    return torch.device("cuda", local)


def _check_gpus(device: torch.device) -> None:
    """Refuse ranks of MPI that share a GPU, on every rank; NCCL would say so less plainly. Every rank calls it."""
    from .mpi import load_mpi

    own = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else ""
    first: dict[str, int] = {}
    for rank, uuid in enumerate(load_mpi().COMM_WORLD.allgather(own)):
        if uuid and first.setdefault(uuid, rank) != rank:
            raise EngineError(
                f"Ranks {first[uuid]} and {rank} have the same GPU.",
                where="ranks",
                remedy="Start as many ranks a host as it has GPUs.",
            )


def _store_over_mpi() -> Any:
    import torch.distributed as dist

    from .mpi import load_mpi

    world = load_mpi().COMM_WORLD
    hosts = set(world.allgather(socket.gethostname()))
    if len(hosts) == 1:
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        folder = tempfile.mkdtemp(prefix="trtbench-ranks-") if world.Get_rank() == 0 else None
        path = Path(world.bcast(folder)) / "store"
        return dist.FileStore(str(path), world.Get_size())
    host = world.bcast(socket.gethostname())
    port = None
    store: Any = None
    if world.Get_rank() == 0:
        store = dist.TCPStore(host, 0, world.Get_size(), is_master=True, wait_for_workers=False, timeout=_PATIENCE)
        port = store.port
    port = world.bcast(port)
    if store is None:
        store = dist.TCPStore(host, port, world.Get_size(), is_master=False, timeout=_PATIENCE)
    return store
