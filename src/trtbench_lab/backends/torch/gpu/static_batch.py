"""A static batch over a cache in blocks: which blocks each row has, and how its prompts are cut into steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ....errors import RequestError
from .memory_plan import CachePlan

Span = tuple[int, int, int]
"""A row, and which of its tokens run: from, to."""


def block_tables(plan: CachePlan, prompts: Sequence[Sequence[int]], new_tokens: int) -> np.ndarray:
    """Return the blocks of every row, int32 (B, most blocks), one row after the other; block 0 stays the sink.

    Raises
    ------
    RequestError
        When the pool does not hold the prompts and `new_tokens` more of each.
    """
    size = plan.tokens_per_block
    needed = [-(-(len(prompt) + new_tokens) // size) for prompt in prompts]
    if sum(needed) + 1 > plan.num_blocks:
        raise RequestError(
            f"The batch needs {sum(needed)} cache blocks of {size} tokens and the pool has {plan.num_blocks - 1}.",
            where="batch_input_ids",
            remedy="Send fewer or shorter prompts, ask for fewer tokens, or build with a larger kv_cache_memory.",
        )
    tables = np.zeros((len(prompts), max(needed)), np.int32)
    first = 1
    for row, count in enumerate(needed):
        tables[row, :count] = np.arange(first, first + count)
        first += count
    return tables


def pieces_of(prompts: Sequence[Sequence[int]], most_tokens: int) -> Iterator[list[Span]]:
    """Cut the packed prompts into pieces of at most `most_tokens`."""
    spans: list[Span] = []
    room = most_tokens
    for row, prompt in enumerate(prompts):
        start = 0
        while start < len(prompt):
            end = min(len(prompt), start + room)
            spans.append((row, start, end))
            room -= end - start
            start = end
            if room == 0:
                yield spans
                spans, room = [], most_tokens
    if spans:
        yield spans
