"""How long a cell on two CPU ranks takes beyond its own work, and how long a world takes to start and to come back.

Run it on a machine that does nothing else: ``python benchmarks/mpi_cells.py``. Goals: a median round trip of at
most 15 ms, a world in at most 10 s. ipyparallel passes prints on every 0.05 s here; that is no part of a round trip,
which ends with the ranks' answers.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time

from trtbench_lab.distributed import World
from trtbench_lab.distributed.faults import RankError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--starts", type=int, default=3)
    arguments = parser.parse_args()
    starts_s = [start_seconds(arguments.ranks) for _ in range(arguments.starts)]
    with World(arguments.ranks) as world:
        for _ in range(10):
            world.run("None")
        plain_ms = [cell_ms(world, "None") for _ in range(arguments.cells)]
        reduce_ms = [cell_ms(world, "comm.allreduce(rank)") for _ in range(arguments.cells)]
        recovery_s = recovery_seconds(world)
    found = {
        "ranks": arguments.ranks,
        "python": platform.python_version(),
        "world_start_s": spread(starts_s),
        "round_trip_ms": spread(plain_ms),
        "round_trip_with_allreduce_ms": spread(reduce_ms),
        "usable_again_after_a_blocked_collective_s": round(recovery_s, 2),
    }
    print(json.dumps(found, indent=2))


def start_seconds(ranks: int) -> float:
    began = time.perf_counter()
    world = World(ranks)
    world.start()
    seconds = time.perf_counter() - began
    world.stop()
    return seconds


def cell_ms(world: World, text: str) -> float:
    began = time.perf_counter()
    world.run(text)
    return 1e3 * (time.perf_counter() - began)


def recovery_seconds(world: World) -> float:
    began = time.perf_counter()
    try:
        world.run("if rank == 1:\n    raise ValueError\ncomm.Barrier()")
    except RankError:
        world.run("comm.allreduce(1)")
    return time.perf_counter() - began


def spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median": round(statistics.median(ordered), 2),
        "min": round(ordered[0], 2),
        "p95": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 2),
    }


if __name__ == "__main__":
    main()
