"""A static batch on the fused engine: packed prompts in, then decode steps that follow one another on the device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np
import torch

from ....errors import EngineError, RequestError
from .attention import PromptRows
from .graphs import RING_STEPS, DecodeBucket, bucket_for, let_go
from .memory_plan import CachePlan
from .static_batch import Span, block_tables, pieces_of
from .step import PackedStep, Steps

# Products of 8,192 tokens run at the matrix units' full rate; longer pieces take memory and gain nothing.
PROMPT_TOKENS = 8192


_P = ParamSpec("_P")
_R = TypeVar("_R")


def _on_its_device(
    method: Callable[Concatenate[FusedSession, _P], _R],
) -> Callable[Concatenate[FusedSession, _P], _R]:
    """Run a method with the session's GPU as the current one: kernels, streams and events are that one's."""

    @functools.wraps(method)
    def run(self: FusedSession, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            return method(self, *args, **kwargs)

    return run


class TokenTicket:
    """The tokens of one step, on their way to the host."""

    def __init__(self, row: torch.Tensor, used: int) -> None:
        self._row, self._used = row, used
        self._event = None
        if torch.cuda.is_available() and row.is_pinned():
            self._event = torch.cuda.Event()
            self._event.record()

    def tokens(self) -> list[int]:
        """Wait for the step and return one token a row.

        Raises
        ------
        EngineError
            When the step failed on the device.
        """
        if self._event is not None:
            try:
                self._event.synchronize()
            except RuntimeError as error:
                raise EngineError(
                    "A decode step failed on the device.",
                    remedy="Load the engine again; the details say what the driver reports.",
                    details=str(error),
                ) from error
        return self._row[: self._used].tolist()  # type: ignore[no-any-return]


class FusedSession:
    """One lowered model, its pool, and the decode buckets made so far.

    Parameters
    ----------
    steps
        Runs the model.
    plan
        The pool; it is allocated with the first request.
    max_rows, max_tokens
        Most sequences, and tokens of one.
    max_num_tokens
        Longest packed piece of prompts.
    """

    def __init__(
        self, steps: Steps, plan: CachePlan, *, max_rows: int, max_tokens: int, max_num_tokens: int | None = None
    ) -> None:
        self.steps, self.plan = steps, plan
        self.device = steps.model.device
        self.vocab_size = steps.model.config.vocab_size
        self.max_rows, self.max_tokens = max_rows, max_tokens
        self.chunk_tokens = min(max_num_tokens or PROMPT_TOKENS, max_rows * max_tokens)
        self.request_number = 0
        self._pools: list[torch.Tensor] = []
        self._buckets: dict[int, DecodeBucket] = {}
        self._bucket: DecodeBucket | None = None
        self._rows = 0
        self._taken = 0

    # ---- prompt phase -----------------------------------------------------------------------------------------

    def check_start(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
        """Raise `RequestError` for what `start` would refuse: on several ranks, before the others are told."""
        block_tables(self.plan, prompts, new_tokens)

    @_on_its_device
    def start(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> torch.Tensor:
        """Begin a request: fill the cache with the prompts and return the logits after each one's last token.

        Parameters
        ----------
        prompts
            Token ids, one sequence a row.
        new_tokens
            Tokens that each may grow by.

        Returns
        -------
        (B, V) float32 on the device, valid until the next call.

        Raises
        ------
        RequestError
            When the pool does not hold so many tokens.
        """
        self.request_number += 1
        tables = block_tables(self.plan, prompts, new_tokens)
        rows = len(prompts)
        bucket = self._bucket = self._bucket_of(rows)
        on_device = torch.from_numpy(tables).to(self.device)
        lengths = torch.tensor([len(prompt) - 1 for prompt in prompts], dtype=torch.int32).to(self.device)
        bucket.begin(lengths, on_device)
        self._rows, self._taken = rows, 0
        logits = bucket.logits
        with torch.inference_mode(), self.steps.store.used():
            for spans in pieces_of(prompts, self.chunk_tokens):
                step, ended = self._piece(prompts, spans, on_device)
                found = self.steps.packed(step, self.pools, None)
                if ended:
                    logits[torch.tensor(ended, device=self.device)] = found
        return logits[:rows, : self.vocab_size]

    def _piece(
        self, prompts: Sequence[Sequence[int]], spans: list[Span], tables: torch.Tensor
    ) -> tuple[PackedStep, list[int]]:
        sizes = [end - start for _, start, end in spans]
        starts = [0, *np.cumsum(sizes).tolist()]
        ended = [row for row, _, end in spans if end == len(prompts[row])]
        wanted = [starts[i + 1] - 1 for i, (row, _, end) in enumerate(spans) if end == len(prompts[row])]
        packed = np.concatenate(
            [
                np.concatenate([np.asarray(prompts[row][start:end], np.int32) for row, start, end in spans]),
                np.concatenate([np.arange(start, end, dtype=np.int32) for _, start, end in spans]),
                np.repeat(np.arange(len(spans), dtype=np.int32), sizes),
                np.asarray(starts, np.int32),
                np.asarray(wanted or [0], np.int32),
                np.asarray([row for row, _, _ in spans], np.int32),
                np.asarray([end for _, _, end in spans], np.int32),
            ]
        )
        host = torch.from_numpy(packed)
        if self.device.type == "cuda":
            host = host.pin_memory()
        sent = host.to(self.device, non_blocking=True)
        tokens, rows = starts[-1], len(spans)
        ids, positions, token_rows, begins, indices, table_rows, lengths = sent.split(
            [tokens, tokens, tokens, rows + 1, max(1, len(wanted)), rows, rows]
        )
        row_tables = tables[table_rows.long()]
        prompt_rows = PromptRows(starts, [start for _, start, _ in spans], begins, lengths, row_tables)
        step = PackedStep(ids, positions, token_rows, row_tables, indices, 0, prompt_rows)
        return step, ended

    # ---- decode phase -----------------------------------------------------------------------------------------

    @_on_its_device
    def greedy(self) -> TokenTicket:
        """Queue the next tokens, each row's most likely: after the prompt, of its logits; then one step a call."""
        bucket = self._current()
        if self._taken == 0:
            with self.steps.store.used():
                bucket.take(greedy=True)
        else:
            bucket.run(greedy=True)
        return self._ticket(bucket)

    @_on_its_device
    def take(self, chosen: torch.Tensor) -> TokenTicket:
        """Queue `chosen` (B,) int64, on the device, as the next tokens; `forward` then gives the logits after them."""
        bucket = self._current()
        bucket.chosen[: self._rows].copy_(chosen)
        with self.steps.store.used():
            bucket.take(greedy=False)
        return self._ticket(bucket)

    @_on_its_device
    def forward(self) -> torch.Tensor:
        """Queue one step over the tokens taken last; the logits (B, V) are valid until the next call."""
        bucket = self._current()
        bucket.run(greedy=False)
        return bucket.logits[: self._rows, : self.vocab_size]

    @_on_its_device
    def forward_eagerly(self) -> torch.Tensor:
        """As `forward`, kernel by kernel: for profilers, which do not see into a graph."""
        bucket = self._current()
        with torch.inference_mode(), self.steps.store.used():
            bucket.run_eagerly()
        return bucket.logits[: self._rows, : self.vocab_size]

    def _ticket(self, bucket: DecodeBucket) -> TokenTicket:
        row = bucket.ring[self._taken % RING_STEPS]
        self._taken += 1
        return TokenTicket(row, self._rows)

    # ---- housekeeping -----------------------------------------------------------------------------------------

    @property
    def pools(self) -> list[torch.Tensor]:
        """The cache, one pool a layer; made when it is needed first."""
        if not self._pools:
            heads, plan = self.steps.heads, self.plan
            shape = (plan.num_blocks, 2, heads.num_kv_heads, plan.tokens_per_block, heads.head_size)
            try:
                self._pools = [
                    torch.zeros(shape, dtype=plan.dtype, device=self.device) for _ in self.steps.model.layers
                ]
            except torch.OutOfMemoryError as error:
                raise EngineError(
                    f"The device has no room for a K/V cache of {plan.nbytes:,} bytes.",
                    where=str(self.device),
                    remedy="Free GPU memory, or build with a smaller kv_cache_memory or max_batch_size.",
                    details=str(error),
                ) from error
        return self._pools

    @_on_its_device
    def warm(self, rows: Sequence[int]) -> None:
        """Capture the greedy graphs of the buckets that hold these batch sizes."""
        for size in rows:
            bucket = self._bucket_of(size)
            bucket.take(greedy=True)
            bucket.run(greedy=True)

    def memory(self) -> dict[str, int]:
        """Bytes of the pool, 0 before the first request."""
        return {"kv_cache_bytes": sum(pool.nbytes for pool in self._pools)}

    @_on_its_device
    def close(self) -> None:
        """Free the pool and the graphs, once no queued step writes to them or to the host's rings any more."""
        let_go(self._buckets, self.device)
        self._bucket = None
        self._pools.clear()

    def _bucket_of(self, rows: int) -> DecodeBucket:
        size = bucket_for(rows, self.max_rows)
        if size not in self._buckets:
            self._buckets[size] = DecodeBucket(self.steps, size, self.plan.blocks_per_row, self.max_tokens, self.pools)
        return self._buckets[size]

    def _current(self) -> DecodeBucket:
        if self._bucket is None:
            raise RequestError("No request was started.", remedy="Call start with the prompts first.")
        return self._bucket
