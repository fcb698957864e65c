"""What every rank of a test runs: calls that are refused, in turn, each followed by one that is not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from trtbench_lab.errors import TrtbenchError
from trtbench_lab.ranks import launched
from trtbench_lab.runtime import LLM, ModelRunner, ranked_llm

PROMPT, NEW = [5, 17, 40], 6
BLOCKS = 5
"""Blocks of eight tokens of the running batch's cache; the first is nobody's."""


def refusal(call: Callable[[], Any]) -> str:
    """Return what a call says that is refused."""
    try:
        return f"not refused: {call()}"
    except TrtbenchError as error:
        return str(error)


def loaded(engine: Path, found: dict[str, Any]) -> None:
    """Options that no rank can take, and memory that rank 1 alone has not."""
    found["option"] = refusal(lambda: ModelRunner.from_dir(engine, prefill_chunk_tokens=0))
    made = ranked_llm.step_runner_for

    def failing(*_: Any) -> Any:
        raise RuntimeError("no memory for that")

    if launched().rank == 1:
        ranked_llm.step_runner_for = failing  # type: ignore[assignment]
    found["memory"] = refusal(lambda: LLM(engine, tokenizer=False))
    ranked_llm.step_runner_for = made


def in_flight(engine: Path, block_bytes: int, found: dict[str, Any]) -> None:
    """Requests that are too large or no requests at all, beside one that runs."""
    with LLM(engine, tokenizer=False, kv_cache_bytes=BLOCKS * block_bytes) as llm:
        beside = llm.batcher.submit(PROMPT, max_new_tokens=20)
        found["large"] = refusal(lambda: llm.generate([[7] * 30], {"max_tokens": 10}))
        found["nested"] = refusal(lambda: llm.generate([[[7, 8]]], {"max_tokens": 2}))
        found["object"] = refusal(lambda: llm.batcher.submit([7], logits_processor=[object()]))
        found["beside"] = beside.result()
        found["after"] = llm.generate(PROMPT, {"max_tokens": NEW}).outputs[0].token_ids


def static(engine: Path, found: dict[str, Any]) -> None:
    """A batch for which the pool is too small, a stream that is left early, and calls after the close."""
    with ModelRunner.from_dir(engine) as runner:
        found["batch"] = refusal(lambda: runner.generate([[7] * 40] * 4, max_new_tokens=20))
        stream = runner.generate([PROMPT], max_new_tokens=NEW, streaming=True)
        ends = (len(PROMPT) + step for step in (1, 2))  # what is not made yet is filled up
        found["stream"] = [output["output_ids"][0, 0, :end].tolist() for end, output in zip(ends, stream, strict=False)]
        del stream
        found["whole"] = runner.generate([PROMPT], max_new_tokens=NEW)["output_ids"][0, 0].tolist()
        found["first"] = refusal(lambda: runner.logits_of([PROMPT, PROMPT], first=[0]))
    runner.close()
    found["closed"] = [
        refusal(lambda: runner.generate([PROMPT], max_new_tokens=NEW)),
        refusal(lambda: list(runner.generate([PROMPT], max_new_tokens=NEW, streaming=True))),
        refusal(lambda: runner.logits_of([PROMPT])),
    ]


if __name__ == "__main__":
    folder, block_bytes = Path(sys.argv[1]), int(sys.argv[2])
    results: dict[str, dict[str, Any]] = {name: {} for name in ("tp2", "pp2", "small", "again")}
    loaded(folder / "tp2", results["tp2"])
    for layout in ("tp2", "pp2"):
        in_flight(folder / layout, block_bytes, results[layout])
    static(folder / "small", results["small"])
    in_flight(folder / "tp2", block_bytes, results["again"])
    torch.save(results, folder / f"refused.rank{launched().rank}.pt")
