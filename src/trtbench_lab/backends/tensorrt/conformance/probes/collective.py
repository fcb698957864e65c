"""Two ranks, a process and a GPU each, that add their tensors up through TensorRT's own layer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from .....errors import EngineError
from ...communicator import nccl_group
from .models import Tried
from .sequences import relative_difference

RANKS = 2
_SECONDS = 300.0


def try_collectives(folder: Path) -> Tried:
    """Start the ranks and compare what each got with the sum."""
    command = [sys.executable, "-P", "-m", __name__, str(folder)]
    ranks = [subprocess.Popen([*command, str(rank)], env=os.environ) for rank in range(RANKS)]
    try:
        statuses = [rank.wait(_SECONDS) for rank in ranks]
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"The ranks had not ended after {_SECONDS:.0f} s.") from error
    finally:
        for rank in ranks:
            with suppress(ProcessLookupError):
                rank.kill()
    if any(statuses):
        raise EngineError(f"A rank ended with status {next(filter(None, statuses))}; the log says why.")
    differences = [json.loads((folder / f"rank{rank}.json").read_text())["difference"] for rank in range(RANKS)]
    return max(differences), {"ranks": RANKS}


def run_rank(folder: Path, rank: int, *, group: Any = None, cuda: Any = None) -> float:
    """Build and run the network of one rank; return its difference from the sum."""
    from .operators import OperatorBuild
    from .single import SingleEngine

    inputs = [torch.randn(8, 32, generator=torch.Generator().manual_seed(one)) for one in range(RANKS)]

    def populate(trt: Any, network: Any) -> None:
        tensor = network.add_input("x", trt.DataType.FLOAT, (8, 32))
        operation, reduction = trt.CollectiveOperation.ALL_REDUCE, trt.ReduceOperation.SUM
        layer = network.add_dist_collective(tensor, operation, reduction, -1, None)
        layer.num_ranks = RANKS
        tensor = layer.get_output(0)
        tensor.name = "sum"
        network.mark_output(tensor)

    memory, _ = OperatorBuild().plan(populate)
    capsule = nccl_group(group if group is not None else torch_group(folder, rank)).capsule()
    found = SingleEngine(memory, capsule, cuda).run({"x": inputs[rank]})["sum"]
    return relative_difference(found, torch.stack(inputs).sum(0))


def torch_group(folder: Path, rank: int) -> Any:
    """Return torch's NCCL group over the ranks, one GPU each."""
    import torch.distributed as dist

    torch.cuda.set_device(rank)
    store = dist.FileStore(str(folder / "ranks"), RANKS)
    dist.init_process_group("nccl", store=store, rank=rank, world_size=RANKS, device_id=torch.device("cuda", rank))
    dist.barrier()
    return dist.group.WORLD


if __name__ == "__main__":
    _folder, _rank = Path(sys.argv[1]), int(sys.argv[2])
    _difference = run_rank(_folder, _rank)
    (_folder / f"rank{_rank}.json").write_text(json.dumps({"difference": _difference}))
    sys.stdout.flush()
    os._exit(0)
