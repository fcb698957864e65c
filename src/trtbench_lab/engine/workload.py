"""Which ranks are built side by side: as many workers as asked for, as far as GPUs or CPU cores reach."""

from __future__ import annotations

from collections.abc import Callable

from .machine import machine_fingerprint
from .plan import BuildPlan
from .seal import built_for_gpu


def ranks_by_worker(plan: BuildPlan, note: Callable[[str], None]) -> list[list[int]]:
    """Return the ranks of each worker; a note says so when fewer run side by side than were asked for.

    A GPU is given to one worker at a time, since builders time kernels on it; on a CPU a worker needs a core.
    """
    world_size = plan.model_config.mapping.world_size
    config = plan.build_config
    wanted = min(world_size, world_size if config.parallel_build else config.workers)
    machine = machine_fingerprint()
    machine_key = plan.builder.machine_key()
    gpus = [gpu for gpu in machine.get("gpus", ()) if built_for_gpu({"gpus": [gpu]}, machine_key)]
    if gpus:
        limit, what = len(gpus), "GPU"
    else:
        limit, what = machine.get("cpu_cores_usable") or 1, "CPU core"
    workers = max(1, min(wanted, limit))
    if workers < wanted:
        order = "one after the other" if workers == 1 else f"{workers} at a time"
        have = f"{limit} {what}" + ("" if limit == 1 else "s")
        note(f"{wanted} ranks were to be built side by side; with {have} they are built {order}.")
    return [list(range(first, world_size, workers)) for first in range(workers)]
