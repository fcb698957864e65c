"""What every rank of a test runs: random arrivals and cancels on each engine of the command line, by one program."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path
from typing import Any

import torch

from trtbench_lab.cli import main as shell
from trtbench_lab.errors import RequestError
from trtbench_lab.ranks import launched
from trtbench_lab.runtime import LLM
from trtbench_lab.runtime.inflight.led_steps import FollowedSteps

BLOCKS, SLOTS, STEP_TOKENS = 10, 4, 24

CROWD = [[number, *range(1, 8)] for number in (11, 22, 33, 44)]


def requests(count: int = 16) -> list[dict[str, Any]]:
    """Prompts of many lengths, some with one beginning, each with its own sampling; `cancel` after so many tokens."""
    chance = random.Random(5)
    shared = [chance.randrange(1, 97) for _ in range(17)]
    found = []
    for number in range(count):
        own = [chance.randrange(1, 97) for _ in range(chance.randrange(1, 15))]
        sampling: dict[str, Any] = {"max_new_tokens": chance.randrange(2, 16)}
        if number % 3 == 1:
            sampling |= {"temperature": 0.8, "top_k": 8, "random_seed": number}
        if number % 5 == 2:
            sampling |= {"repetition_penalty": 1.3}
        if number % 4 == 3:
            sampling |= {"output_log_probs": True}
        cancel = {4: 2, 10: 0}.get(number)
        if cancel is not None:
            sampling["max_new_tokens"] = 45
        found.append({"prompt": shared + own if number % 2 else own, "sampling": sampling, "cancel": cancel})
    return found


def served(engine: Path, block_bytes: int) -> dict[str, Any]:
    """Send all; those to be cancelled are read until enough has come."""
    found: dict[str, Any] = {}
    with LLM(
        engine, tokenizer=False, kv_cache_bytes=BLOCKS * block_bytes, max_running=SLOTS, max_step_tokens=STEP_TOKENS
    ) as llm:
        found["blocks"] = llm.pool.num_blocks
        handles = []
        for request in requests():
            stream = request["cancel"] is not None
            handles.append(llm.batcher.submit(request["prompt"], streaming=stream, **request["sampling"]))
            if request["cancel"] == 0:
                handles[-1].cancel()
        for handle, request in zip(handles, requests(), strict=True):
            if request["cancel"]:
                seen: list[int] = []
                for new in handle:
                    seen += new
                    if len(seen) >= request["cancel"]:
                        handle.cancel()
                        break
        found["tokens"] = [handle.result() for handle in handles]
        found["reasons"] = [handle.finish_reason for handle in handles]
        found["log_probs"] = [handle.log_probs for handle in handles]
        # Four that grow to 4 blocks each, of 9: some are put off.
        crowd = llm.batcher.submit_all([(prompt, None, {"max_new_tokens": 24}) for prompt in CROWD])
        found["crowd"] = [handle.result() for handle in crowd]
        found["preemptions"] = sum(handle.preemptions for handle in crowd)
        found["reused"] = sum(handle.reused_tokens for handle in handles)
        found["rising"] = all(list(h.timing.token_ns) == sorted(h.timing.token_ns) for h in handles)
        found["streams"] = asyncio.run(streams(llm))
        found["together"] = [output.outputs[0].token_ids for output in llm.generate([[5, 6], [7]], {"max_tokens": 3})]
        try:
            llm.generate([[5], [1] * 60], {"max_tokens": 3})
        except RequestError as error:
            found["refused"] = error.what
    return found


def served_from_rounded_keys(engine: Path, block_bytes: int) -> dict[str, Any]:
    """Greedy requests over an INT8 or FP8 cache, a byte a value, some of which begin with others' blocks."""
    with LLM(
        engine, tokenizer=False, kv_cache_bytes=BLOCKS * block_bytes // 2, max_running=SLOTS,
        max_step_tokens=STEP_TOKENS,
    ) as llm:  # fmt: skip
        sampling = {"max_new_tokens": 12, "output_log_probs": True}
        handles = [llm.batcher.submit(request["prompt"], **sampling) for request in requests(8)]
        return {
            "tokens": [handle.result() for handle in handles],
            "log_probs": [handle.log_probs for handle in handles],
            "reused": sum(handle.reused_tokens for handle in handles),
            "blocks": llm.pool.num_blocks,
        }


async def streams(llm: LLM) -> list[tuple[int, list[int]]]:
    """Read requests side by side, each (pieces, tokens)."""

    async def read(number: int) -> tuple[int, list[int]]:
        tokens: list[int] = []
        pieces = 0
        async for output in llm.generate_async([number, 3], {"max_tokens": 6}):
            tokens = output.outputs[0].token_ids
            pieces += 1
        return pieces, tokens

    return list(await asyncio.gather(*(read(number) for number in range(1, 6))))


def break_a_rank(engine: Path, by: str) -> None:
    """Let rank 1 fail in its fourth step, under the shell or under a program of one's own."""
    steps = iter(range(100))
    run = FollowedSteps.run

    def failing(self: FollowedSteps, told: Any) -> None:
        if next(steps) == 3:
            raise RuntimeError("this card has fallen off the bus")
        run(self, told)

    if launched().rank == 1:
        FollowedSteps.run = failing  # type: ignore[method-assign]
    if by == "shell":
        sys.exit(shell(["run", "--engine_dir", str(engine), "--prompts", str(engine.parent / "prompts.jsonl"), "-q"]))
    LLM(engine, tokenizer=False).generate([[1, 2, 3]], {"max_tokens": 20})


if __name__ == "__main__":
    what, folder, *rest = sys.argv[1:]
    if what == "fail":
        break_a_rank(Path(folder) / rest[0], rest[1])
    elif what == "shell":
        lines = Path(folder).read_text(encoding="utf-8").splitlines()
        sys.exit(max(shell(line.split()) for line in lines))
    else:
        for name in rest:
            path = Path(folder)
            serve = served_from_rounded_keys if "cache" in name else served
            result = serve(path / name, int(what))
            torch.save(result, path / f"served-{name}.rank{launched().rank}.pt")
