"""A static batch over pipeline stages that keep the paged cache: `generate` of an engine whose keys are rounded.

It has the interface of `gpu.session.FusedSession`. Stages run the decoder's modules and pass hidden states on by
themselves; rank 0 alone has logits, so it chooses tokens, and the others learn them before the next step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ...ranks import RankCommunicator
from .gpu.memory_plan import CachePlan
from .gpu.session import PROMPT_TOKENS, TokenTicket
from .gpu.static_batch import Span, block_tables, pieces_of

if TYPE_CHECKING:
    from .paged_executor import PagedTorchExecutor

class StagedSession:
    """One rank of a batch; every rank is given the same calls.

    Parameters
    ----------
    executor
        This rank's stage.
    ranks
        The others.
    plan
        The pool; it is allocated with the first request.
    max_rows, max_tokens
        Most sequences, and tokens of one.
    max_num_tokens
        Longest packed piece of prompts.
    """

    def __init__(
        self, executor: PagedTorchExecutor, ranks: RankCommunicator, plan: CachePlan, *, max_rows: int,
        max_tokens: int, max_num_tokens: int | None = None,
    ) -> None:  # fmt: skip
        self.executor, self.ranks, self.plan = executor, ranks, plan
        self.device = executor.device
        self.vocab_size = executor.config.vocab_size
        self.max_rows, self.max_tokens = max_rows, max_tokens
        self.chunk_tokens = min(max_num_tokens or PROMPT_TOKENS, max_rows * max_tokens)
        self.request_number = 0
        executor.guards_writes = False  # positions and blocks are made here, within the pool
        self._pools: list[torch.Tensor] = []
        self._tables = self._tokens = self._lengths = torch.empty(0, dtype=torch.int32)
        self._logits = torch.empty(0)
        self._taken = 0

    def check_start(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
        """Raise `RequestError` for what `start` would refuse: on several ranks, before the others are told."""
        block_tables(self.plan, prompts, new_tokens)

    def start(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> torch.Tensor:
        """Begin a request: fill the cache and return the logits (B, V) after each prompt, right on rank 0.

        Raises
        ------
        RequestError
            When the pool does not hold so many tokens.
        """
        self.request_number += 1
        self._allocate()
        tables = block_tables(self.plan, prompts, new_tokens)
        self._tables = torch.from_numpy(tables).to(self.device)
        self._lengths = self._integers([len(prompt) for prompt in prompts])
        self._taken = 0
        self._logits = torch.zeros(len(prompts), self.vocab_size, device=self.device)
        for spans in pieces_of(prompts, self.chunk_tokens):
            ended = [(number, row) for number, (row, _, end) in enumerate(spans) if end == len(prompts[row])]
            found = self._run(prompts, spans, [number for number, _ in ended])
            if ended:
                self._logits[[row for _, row in ended]] = found
        return self._logits

    def greedy(self) -> TokenTicket:
        """Queue the next tokens, each row's most likely: after the prompt, of its logits; then one step a call."""
        logits = self._logits if self._taken == 0 else self.forward()
        tokens = logits.argmax(dim=1).to(torch.int32)  # of zeros on the other ranks, which rank 0's tokens replace
        self.ranks.broadcast(tokens, 0)
        return self._took(tokens)

    def take(self, chosen: torch.Tensor) -> TokenTicket:
        """Queue `chosen` (B,) as the next tokens; `forward` then gives the logits after them."""
        return self._took(chosen.to(self.device, torch.int32))

    def forward(self) -> torch.Tensor:
        """Run one step over the tokens taken last; the logits (B, V) are right on rank 0."""
        rows = self._lengths.shape[0]
        numbers = torch.arange(rows + 1, dtype=torch.int32, device=self.device)
        found = self._step(self._tokens, self._lengths, numbers[:rows], numbers, self._lengths + 1, numbers[:rows])
        self._lengths = self._lengths + 1
        return found

    def memory(self) -> dict[str, int]:
        """Bytes of the pool, 0 before the first request."""
        return {"kv_cache_bytes": sum(pool.nbytes for pool in self._pools)}

    def close(self) -> None:
        """Free the pool."""
        self._pools.clear()

    def _took(self, tokens: torch.Tensor) -> TokenTicket:
        self._tokens, self._taken = tokens, self._taken + 1
        on_gpu = self.device.type == "cuda"
        host = torch.empty(tokens.shape, dtype=torch.int32, pin_memory=on_gpu).copy_(tokens, non_blocking=on_gpu)
        return TokenTicket(host, tokens.shape[0])

    def _run(self, prompts: Sequence[Sequence[int]], spans: list[Span], wanted: list[int]) -> torch.Tensor:
        """Run pieces of prompts; logits after the last token of the pieces in `wanted`, or of some token for none."""
        starts = [0]
        for _, start, end in spans:
            starts.append(starts[-1] + end - start)
        return self._step(
            self._integers([token for row, start, end in spans for token in prompts[row][start:end]]),
            self._integers([position for _, start, end in spans for position in range(start, end)]),
            self._integers([number for number, (_, start, end) in enumerate(spans) for _ in range(start, end)]),
            self._integers(starts),
            self._integers([end for _, _, end in spans]),
            self._integers([starts[number + 1] - 1 for number in wanted] or [0]),
            self._tables[[row for row, _, _ in spans]],
        )

    def _step(
        self, ids: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor, starts: torch.Tensor,
        lengths: torch.Tensor, wanted: torch.Tensor, tables: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        logits = torch.zeros(wanted.shape[0], self.vocab_size, device=self.device)
        bound = {
            "input_ids": ids, "position_ids": positions, "token_rows": rows, "query_starts": starts,
            "kv_lengths": lengths, "block_tables": self._tables if tables is None else tables,
            "logit_indices": wanted, "logits": logits,
        }  # fmt: skip
        for name, tensor in bound.items():
            self.executor.bind(name, tensor)
        self.executor.run()
        return logits

    def _allocate(self) -> None:
        if self._pools:
            return
        for spec in self.executor.io:
            if spec.name.startswith("kv_cache_") and spec.mode == "input":
                shape = (self.plan.num_blocks, *(int(size) for size in spec.shape[1:]))
                pool = torch.zeros(shape, dtype=getattr(torch, spec.dtype), device=self.device)
                self.executor.bind(spec.name, pool)
                self._pools.append(pool)

    def _integers(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=self.device)
