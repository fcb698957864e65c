"""What every rank of a test runs: logits and greedy tokens of each engine folder named; rank 0 writes them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from tests.backends.paged_driver import PagedDriver

from trtbench_lab.engine import Engine
from trtbench_lab.ranks import launched
from trtbench_lab.runtime import ModelRunner
from trtbench_lab.runtime.ranked import ranked_executor

PROMPTS = [[5, 17, 40, 3, 8, 91, 2, 33, 70, 11], [60, 2, 19], [1, 44, 12, 80, 7, 23, 9]]
"""Three rows, so that micro-batches are uneven; the first is longer than the window of attention where there is one."""


def found_in(folder: Path) -> dict[str, Any]:
    """Return the logits of all positions of `PROMPTS`, and what follows them greedily."""
    with ModelRunner.from_dir(folder) as runner:
        return {
            "logits": runner.logits_of(PROMPTS),
            "greedy": runner.generate(PROMPTS, max_new_tokens=8, return_dict=False),
        }


def read_through_the_cache(folder: Path) -> dict[str, Any]:
    """Return the logits of a prompt, of a single token and of the rest, which read the engine's own paged cache.

    Every rank drives its part with the same numbers. What follows greedily reads that cache too.
    """
    executor = Engine.from_dir(folder).executor() if launched().size == 1 else ranked_executor(str(folder))[1]
    driver = PagedDriver(executor, num_rows=len(PROMPTS), columns=1)
    cuts = [(0, 2), (2, 3), (3, None)]
    steps = [driver.step([row[begin:end] for row in PROMPTS]) for begin, end in cuts]
    executor.close()
    logits = [torch.cat([step[row] for step in steps]) for row in range(len(PROMPTS))]
    return {"logits": logits, "greedy": found_in(folder)["greedy"]}


def main(folder: Path, names: list[str]) -> None:
    found = {}
    for name in names:
        found[name] = (read_through_the_cache if "cache" in name else found_in)(folder / name)
        print(f"{name}: rank {launched().rank} done", file=sys.stderr, flush=True)
    if launched().rank == 0:
        torch.save(found, folder / f"found-{launched().size}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
