"""Prompt and decode steps over an executor: bound buffers, a cache sized by the request, ragged and chunked prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from ..errors import EngineError, RequestError
from .kv_cache import KVCache

if TYPE_CHECKING:
    from ..backends.protocol import Executor

# A chunk bounds the memory of the prompt phase (mask and activations grow with chunk × capacity). 512 tokens already
# make every matrix product compute-bound, so longer chunks gain nothing.
PREFILL_CHUNK_TOKENS = 512


class Session:
    """One executor and the buffers bound to it.

    A request is `prefill` once and then `decode` per token; both return logits that are only valid until the next call.

    Parameters
    ----------
    executor
        A loaded engine of a whole model (one rank).
    prefill_chunk_tokens
        Longest piece of a prompt given to the engine at once.
    max_positions
        Positions that the engine takes at most; None: not limited.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        prefill_chunk_tokens: int = PREFILL_CHUNK_TOKENS,
        max_positions: int | None = None,
    ) -> None:
        if prefill_chunk_tokens < 1:
            raise RequestError(f"A prefill chunk of {prefill_chunk_tokens} tokens is not possible.", remedy="Use ≥ 1.")
        outputs = {spec.name: spec for spec in executor.io}
        if "logits" not in outputs or "input_ids" not in outputs:
            mapping = executor.config.mapping
            raise EngineError(
                f"This engine holds one of {mapping.pp_size} pipeline stages, and a session needs the whole model.",
                remedy="Build with pp_size=1 to run it in one process.",
            )
        self.executor = executor
        self.device = executor.device
        self.vocab_size = executor.config.vocab_size
        longest = getattr(executor, "longest_run", None)  # some engines bound the new tokens of one run
        self.chunk_tokens = prefill_chunk_tokens if longest is None else min(prefill_chunk_tokens, longest)
        # Vocabularies padded to a multiple of tp have columns that are no tokens; they are cut off.
        width = outputs["logits"].shape[-1]
        self._logits_width = width if isinstance(width, int) else self.vocab_size
        # The session keeps the lengths itself (`reserve` leaves room for them), so the guard's read of the lengths,
        # a wait for the device in every step, is not needed.
        executor.guards_writes = False
        self._max_positions = max_positions
        self._cache = KVCache(executor, max_positions)
        self._beam_cache: KVCache | None = None
        self._active = self._cache
        self.request_number = 0  # tells a stream that a later request took the cache
        self.rows = 0
        self.filled = 0  # tokens in the longest row of the cache
        self._room = 0  # positions that the request may take in all
        self._decoding = False
        self._input_ids = self._step_tokens = torch.empty(0)
        self._write_indices = torch.empty(0)
        self._logits = torch.empty(0)
        self._step_logits = torch.empty(0)

    # ---- prompt phase -----------------------------------------------------------------------------------------

    def prefill(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> torch.Tensor:
        """Start a request: fill the cache with the prompts and return the logits after each one's last token.

        Parameters
        ----------
        prompts
            Token ids, one sequence a row; lengths may differ.
        new_tokens
            Room for decode steps after the longest prompt.

        Returns
        -------
        torch.Tensor
            (B, V) float32.
        """
        lengths = [len(prompt) for prompt in prompts]
        self._begin(len(prompts), max(lengths), new_tokens, self._cache)
        last = torch.zeros(len(prompts), self.vocab_size, device=self.device)
        for start, chunk_logits in self._chunks(prompts, wanted="last"):
            ends = [row for row, length in enumerate(lengths) if start < length <= start + self.chunk_tokens]
            last[ends] = chunk_logits[ends, 0]
        self._finish_prefill(lengths)
        return last

    def logits_of(
        self, sequences: Sequence[Sequence[int]], first: Sequence[int] | None = None, *, new_tokens: int = 0
    ) -> list[torch.Tensor]:
        """Start a request like `prefill`, and return the logits at every position of each sequence (teacher forcing).

        Parameters
        ----------
        sequences
            Token ids, one sequence a row; lengths may differ.
        first
            Per row, the first position whose logits are wanted; None: 0.
        new_tokens
            Room for decode steps afterwards.

        Returns
        -------
        list of torch.Tensor
            One (length − first, V) float32 tensor a row; row t of it scores the token that follows position first + t.
        """
        first = list(first) if first is not None else [0] * len(sequences)
        lengths = [len(sequence) for sequence in sequences]
        self._begin(len(sequences), max(lengths), new_tokens, self._cache)
        pieces: list[list[torch.Tensor]] = [[] for _ in sequences]
        for start, logits in self._chunks(sequences, wanted="all", skip_before=min(first)):
            offset = max(start, min(first))
            for row, length in enumerate(lengths):
                begin, end = max(first[row], offset), min(length, start + self.chunk_tokens)
                if begin < end:
                    pieces[row].append(logits[row, begin - offset : end - offset].clone())
        self._finish_prefill(lengths)
        empty = torch.empty(0, self.vocab_size, device=self.device)
        return [torch.cat(parts) if parts else empty for parts in pieces]

    def _chunks(
        self, prompts: Sequence[Sequence[int]], wanted: str, skip_before: int = 0
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Run the prompts piece by piece; yields (first position, logits of the piece)."""
        rows = len(prompts)
        longest = max(len(prompt) for prompt in prompts)
        for start in range(0, longest, self.chunk_tokens):
            tokens = min(self.chunk_tokens, longest - start)
            # Rows that ended earlier write padding past their own length; decoding overwrites it before it is visible.
            padded = [
                list(prompt[start : start + tokens]) + [0] * (tokens - max(0, min(tokens, len(prompt) - start)))
                for prompt in prompts
            ]
            if wanted == "last":
                positions = [[max(0, min(len(prompt) - start, tokens) - 1)] for prompt in prompts]
            else:
                positions = [list(range(min(max(0, skip_before - start), tokens - 1), tokens))] * rows
            self._bind("input_ids", torch.tensor(padded, device=self.device))  # (B, T)
            self._bind("logit_indices", torch.tensor(positions, device=self.device))  # (B, K)
            self._write_indices.fill_(start)
            logits = torch.empty(rows, len(positions[0]), self._logits_width, device=self.device)
            self._bind("logits", logits)
            self.executor.run()
            yield start, logits[..., : self.vocab_size]

    def _begin(self, rows: int, longest: int, new_tokens: int, cache: KVCache) -> None:
        self.request_number += 1
        self._room = longest + new_tokens
        # Where the engine has several capacities, attention pays for all of the one bound: begin with the smallest that
        # holds the prompts, and move to the next when a sequence reaches its end.
        cache.capacity_for(self._room)
        cache.reserve(rows, self._room if not cache.capacities else longest + min(new_tokens, 1))
        self._activate(cache)
        self._write_indices = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self._bind("write_indices", self._write_indices)
        self.rows = rows
        self._decoding = False

    def _finish_prefill(self, lengths: Sequence[int]) -> None:
        self._write_indices.copy_(torch.tensor(lengths))
        self.filled = max(lengths)

    # ---- decode phase -----------------------------------------------------------------------------------------

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append one token a row and return the logits after it: (B, V), overwritten by the next step.

        Parameters
        ----------
        tokens
            (B,) int64.
        """
        if not self._decoding:
            self._bind_decode_buffers()
        if self.filled >= self._active.capacity:
            if self.filled >= self._room:
                raise RequestError(
                    f"The cache of {self._active.capacity} positions is full.",
                    remedy="Start the request with more room (new_tokens of prefill).",
                )
            self._active.grow(self.filled + 1, self.filled)
            self._activate(self._active)
        self._step_tokens.copy_(tokens)
        self.executor.run()  # on a GPU only queued; whoever reads a token waits for it
        self._write_indices.add_(1)
        self.filled += 1
        return self._step_logits

    def expand(self, beams: int) -> None:
        """Turn each row into `beams` consecutive equal rows (after `prefill`, before the first `decode`)."""
        if self._beam_cache is None:
            self._beam_cache = KVCache(self.executor, self._max_positions)
        source = self._active
        self._beam_cache.reserve(self.rows * beams, source.capacity)
        self._beam_cache.fill_from(source, beams, self.filled)
        self._activate(self._beam_cache)
        self._write_indices = self._write_indices.repeat_interleave(beams)
        self._bind("write_indices", self._write_indices)
        self.rows *= beams
        self._decoding = False

    def take_rows(self, parents: Sequence[int]) -> None:
        """Let row i continue row ``parents[i]`` (both of one prompt, hence of one length)."""
        self._active.take_rows(parents, self.filled)

    def _bind_decode_buffers(self) -> None:
        """Bind once what every step uses: a step then writes B tokens, runs, and adds 1 to B lengths."""
        self._input_ids = torch.zeros(self.rows, 1, dtype=torch.int64, device=self.device)
        self._step_tokens = self._input_ids[:, 0]
        self._logits = torch.empty(self.rows, 1, self._logits_width, device=self.device)
        self._step_logits = self._logits[:, 0, : self.vocab_size]
        self._bind("input_ids", self._input_ids)
        self._bind("logit_indices", torch.zeros(self.rows, 1, dtype=torch.int64, device=self.device))
        self._bind("logits", self._logits)
        self._decoding = True

    # ---- housekeeping -----------------------------------------------------------------------------------------

    def _activate(self, cache: KVCache) -> None:
        self._active = cache
        for name, tensor in cache.tensors.items():
            self._bind(name, tensor)

    def _bind(self, name: str, tensor: torch.Tensor) -> None:
        self.executor.bind(name, tensor)

    def memory(self) -> dict[str, int]:
        """Bytes held: what the executor knows, and ``kv_cache_bytes``."""
        held = self._cache.allocated_bytes + (self._beam_cache.allocated_bytes if self._beam_cache else 0)
        return {**self.executor.memory(), "kv_cache_bytes": held}

    def close(self) -> None:
        """Free the cache and the engine."""
        self._cache.release()
        if self._beam_cache is not None:
            self._beam_cache.release()
        self.executor.close()
