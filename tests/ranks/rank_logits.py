"""What every rank of a test runs: each engine folder of the command line, whose results rank 0 writes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from trtbench_lab.errors import RequestError
from trtbench_lab.ranks import launched
from trtbench_lab.runtime import ModelRunner

SHORT = ("bfloat16", "float16")
"""Ends of the names of engines whose tokens may differ: only their logits are looked at."""
IN_EVERY_WAY = ("tp2", "pp2", "tp2-paged", "tp4", "tp2pp2")
"""Engines that generate in every way; the others' greedy tokens are enough."""


def main(folder: Path, new: int, names: list[str]) -> None:
    for name in names:
        with ModelRunner.from_dir(folder / name) as runner:
            found = {"logits": runner.logits_of([[5, 17, 40, 3], [60, 2]])}
            if not name.endswith(SHORT):
                found["greedy"] = runner.generate([[5, 17, 40], [60, 2]], max_new_tokens=new, return_dict=False)
            if name in IN_EVERY_WAY:
                found |= outputs_of(runner)
        print(f"{name}: rank {launched().rank} done", file=sys.stderr, flush=True)
        torch.save(found, folder / f"{name}.rank{launched().rank}.pt")


def outputs_of(runner: ModelRunner) -> dict[str, Any]:
    """Generate in further ways, and ask for too much."""
    found: dict[str, Any] = {
        "sampled": runner.generate([[5, 17, 40]], max_new_tokens=8, top_k=5, return_dict=False),
        "beams": runner.generate([[5, 17, 40]], max_new_tokens=6, num_beams=2, return_dict=False),
        "streamed": [step["output_ids"] for step in runner.generate([[5, 17]], max_new_tokens=4, streaming=True)][-1],
    }
    try:
        runner.generate([[1] * 1000], max_new_tokens=1)
    except RequestError as error:
        found["refused"] = error.what
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
