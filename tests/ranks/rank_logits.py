"""What every rank of a test runs: each engine folder of the command line, whose results rank 0 writes."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from trtbench_lab.errors import RequestError
from trtbench_lab.ranks import launched
from trtbench_lab.runtime import ModelRunner


def main(folder: Path, names: list[str]) -> None:
    for name in names:
        with ModelRunner.from_dir(folder / name) as runner:
            found = {
                "logits": runner.logits_of([[5, 17, 40, 3], [60, 2]]),
                "greedy": runner.generate([[5, 17, 40], [60, 2]], max_new_tokens=12, return_dict=False),
                "sampled": runner.generate([[5, 17, 40]], max_new_tokens=8, top_k=5, return_dict=False),
                "beams": runner.generate([[5, 17, 40]], max_new_tokens=6, num_beams=2, return_dict=False),
                "streamed": [
                    outputs["output_ids"] for outputs in runner.generate([[5, 17]], max_new_tokens=4, streaming=True)
                ][-1],
            }
            try:
                runner.generate([[1] * 1000], max_new_tokens=1)
            except RequestError as error:
                found["refused"] = error.what
        torch.save(found, folder / f"{name}.rank{launched().rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
