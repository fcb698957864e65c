"""What every rank of a test runs: each collective on tensors of many shapes, against numpy on all ranks' own."""

from __future__ import annotations

import numpy as np
import torch

from trtbench_lab.ranks import communicator_for, launched

SHAPES = [(1, 5), (3, 4), (4, 1), (2, 3, 4), (1, 1, 6), (7,)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def parts(shape: tuple[int, ...], dtype: torch.dtype, ranks: int) -> list[torch.Tensor]:
    """What each rank brings; small integers, so that sums are exact in every type and order."""
    generator = torch.Generator().manual_seed(len(shape) * 100 + sum(shape))
    return [torch.randint(-9, 10, shape, generator=generator).to(dtype) for _ in range(ranks)]


def same(ours: torch.Tensor, theirs: np.ndarray) -> None:
    np.testing.assert_array_equal(ours.float().cpu().numpy(), theirs)
    assert ours.is_contiguous(), (ours.shape, ours.stride())


def main() -> None:
    here = launched()
    ranks = communicator_for()
    for shape in SHAPES:
        for dtype in DTYPES:
            all_parts = parts(shape, dtype, here.size)
            wide = [part.float().numpy() for part in all_parts]
            x = all_parts[here.rank].to(ranks.device)
            for dim in range(-len(shape), len(shape)):
                same(ranks.all_gather(x.clone(), dim), np.concatenate(wide, dim))
                turned = ranks.all_gather(x.clone().movedim(0, -1), dim)  # of a tensor that is not contiguous itself
                same(turned, np.concatenate([np.moveaxis(part, 0, -1) for part in wide], dim))
            same(ranks.all_reduce(x.clone()), sum(wide))
            same(ranks.reduce_add(x.clone(), torch.ones_like(x)), sum(wide) + 1)
            root = here.size - 1
            same(ranks.broadcast(x.clone(), root), wide[root])
            after, before = (here.rank + 1) % here.size, (here.rank - 1) % here.size
            if here.rank % 2 == 0:
                ranks.send(x.clone(), after)
                same(ranks.receive(torch.empty_like(x), before), wide[before])
            else:
                got = ranks.receive(torch.empty_like(x), before)
                ranks.send(x.clone(), after)
                same(got, wide[before])
            ranks.flush()
    print(f"rank {here.rank} of {here.size}: {ranks.name}")


if __name__ == "__main__":
    main()
