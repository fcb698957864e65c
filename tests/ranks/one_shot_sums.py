"""What every rank of a test runs: the kernel of sums in Triton's interpreter, over memory that the processes share."""

from __future__ import annotations

import numpy as np
import torch
from mpi4py import MPI

from trtbench_lab.ranks.one_shot import OneShot, buffer_bytes
from trtbench_lab.ranks.peer_memory import PeerMemory


def main() -> None:
    world = MPI.COMM_WORLD
    ranks, rank = world.size, world.rank
    window = MPI.Win.Allocate_shared(buffer_bytes(ranks), 8, comm=world)
    addresses = []
    for number in range(ranks):
        memory = np.frombuffer(window.Shared_query(number)[0], dtype=np.int64)
        addresses.append(memory.ctypes.data)
        if number == rank:
            memory[:] = 0
    world.Barrier()
    one_shot = OneShot(rank, ranks, PeerMemory(torch.tensor(addresses), "shared", window), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    for dtype, numel in ((torch.float32, 8), (torch.bfloat16, 1026), (torch.float16, 1100)):
        for _ in range(3):  # both sets of buffers, and the first one again
            parts = [torch.randn(numel, generator=generator).to(dtype) for _ in range(ranks)]
            residual = torch.randn(numel, generator=generator).to(dtype)
            expected = residual.float()
            for part in parts:
                expected = expected + part.float()
            assert torch.equal(one_shot.all_reduce(parts[rank].clone(), residual.clone()), expected.to(dtype))
    agreeing = world.reduce(1)
    if rank == 0:  # alone: lines of several ranks run into each other
        print(f"sums agree on {agreeing} ranks", flush=True)


if __name__ == "__main__":
    main()
