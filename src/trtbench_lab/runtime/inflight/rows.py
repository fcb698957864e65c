"""The running batch as arrays by slot: a step over 256 rows is a few NumPy calls, not 256 turns of a Python loop."""

from __future__ import annotations

import numpy as np

from .sequence import Sequence
from .stepper import StepLimits

MOST_TOP_K = np.iinfo(np.int32).max
"""No vocabulary has so many tokens: a larger `top_k` means the same, and would not fit its array."""


class Rows:
    """What the scheduler knows of each running request, one column a quantity, one entry a slot.

    Attributes
    ----------
    used, decoding
        bool: a request has the slot; its prompt is in the cache and it decodes.
    arrival, last_step
        Number of the request; the last step that chose a token for it.
    cached
        Tokens whose keys and values are written by the steps submitted so far.
    prompt_length, chosen, known, limit
        Tokens of the prompt; new tokens that submitted steps choose; those that are known on the host; the most.
    num_blocks, tables
        Blocks held, and their numbers in order (slots, columns).
    generated, token_ns
        (slots, positions): new tokens and when each was known.
    end_ids
        (slots, most end tokens of a request so far), filled up with −2.
    plain, waits, streams, stops, bans, log_probs
        bool flags; see `Sequence`. `stops`: has stop words; `bans`: may have tokens that must not be chosen.
    """

    def __init__(self, limits: StepLimits) -> None:
        slots = limits.max_batch_size
        # A sequence fills at most its blocks; zeros of this size cost address space until they are written.
        positions = limits.max_blocks_per_row * limits.tokens_per_block
        self.sequences: list[Sequence | None] = [None] * slots
        self.owners = np.empty(slots, dtype=object)
        for name in ("used", "decoding", "plain", "waits", "streams", "stops", "bans", "log_probs", "greedy"):
            setattr(self, name, np.zeros(slots, dtype=bool))
        names = ("arrival", "cached", "prompt_length", "chosen", "known", "limit", "num_blocks", "last_step")
        for name in names:
            setattr(self, name, np.zeros(slots, dtype=np.int64))
        self.tables = np.zeros((slots, limits.max_blocks_per_row), dtype=np.int32)
        self.generated = np.zeros((slots, positions), dtype=np.int32)
        self.token_ns = np.zeros((slots, positions), dtype=np.int64)
        self.end_ids = np.full((slots, 1), -2, dtype=np.int32)
        self.seed = np.zeros(slots, dtype=np.uint64)
        self.top_k = np.zeros(slots, dtype=np.int32)
        self.counts_tokens = np.zeros(slots, dtype=bool)
        for name in ("temperature", "top_p", "repetition", "presence", "frequency"):
            setattr(self, name, np.zeros(slots, dtype=np.float32))
        self._free = list(range(slots - 1, -1, -1))

    used: np.ndarray
    decoding: np.ndarray
    plain: np.ndarray
    waits: np.ndarray
    streams: np.ndarray
    stops: np.ndarray
    bans: np.ndarray
    log_probs: np.ndarray
    greedy: np.ndarray
    arrival: np.ndarray
    cached: np.ndarray
    prompt_length: np.ndarray
    chosen: np.ndarray
    known: np.ndarray
    limit: np.ndarray
    num_blocks: np.ndarray
    last_step: np.ndarray
    temperature: np.ndarray
    top_p: np.ndarray
    repetition: np.ndarray
    presence: np.ndarray
    frequency: np.ndarray

    @property
    def num_free(self) -> int:
        """Slots that nobody has."""
        return len(self._free)

    def running(self) -> list[Sequence]:
        """The running requests, in order of arrival."""
        return sorted((s for s in self.sequences if s is not None), key=lambda sequence: sequence.number)

    def enter(self, sequence: Sequence) -> int:
        """Give a request a slot and write its column."""
        slot = self._free.pop()
        sequence.slot = slot
        self.sequences[slot] = self.owners[slot] = sequence
        rules, config = sequence.request.rules, sequence.request.config
        known = len(sequence.generated)
        self.used[slot], self.decoding[slot] = True, False
        self.arrival[slot] = sequence.number
        self.cached[slot] = self.num_blocks[slot] = 0
        self.tables[slot] = 0
        self.prompt_length[slot], self.limit[slot] = len(sequence.prompt), config.max_new_tokens
        self.chosen[slot] = self.known[slot] = known
        self.generated[slot, :known] = sequence.generated
        self.token_ns[slot, :known] = sequence.token_ns
        self._set_end_ids(slot, sequence.request.end_ids)
        self.plain[slot], self.waits[slot] = sequence.is_plain, sequence.waits_for_tokens
        self.streams[slot], self.stops[slot] = sequence.streams, bool(sequence.stop_words)
        self.bans[slot] = bool(sequence.bad_words) or bool(rules.end_ids and rules.min_new_tokens)
        self.log_probs[slot] = config.output_log_probs
        self.greedy[slot], self.temperature[slot] = rules.greedy, rules.temperature
        self.top_k[slot] = min(rules.top_k, MOST_TOP_K)
        self.top_p[slot], self.seed[slot] = rules.top_p, rules.seeds[0]
        self.repetition[slot], self.presence[slot] = rules.repetition_penalty, rules.presence_penalty
        self.frequency[slot], self.counts_tokens[slot] = rules.frequency_penalty, rules.counts_tokens
        return slot

    def leave(self, slot: int) -> Sequence:
        """Free a slot; the request takes what is known of its output along."""
        sequence = self.sequences[slot]
        assert sequence is not None  # noqa: S101 - the scheduler only frees what is used
        known = int(self.known[slot])
        sequence.generated = self.generated[slot, :known].tolist()
        sequence.token_ns = self.token_ns[slot, :known].tolist()
        sequence.slot = -1
        self.sequences[slot] = self.owners[slot] = None
        self.used[slot] = self.decoding[slot] = False
        self._free.append(slot)
        return sequence

    def extend_table(self, slot: int, blocks: list[int]) -> None:
        """Append blocks to a row's table."""
        count = int(self.num_blocks[slot])
        self.tables[slot, count : count + len(blocks)] = blocks
        self.num_blocks[slot] = count + len(blocks)

    def _set_end_ids(self, slot: int, end_ids: tuple[int, ...]) -> None:
        if len(end_ids) > self.end_ids.shape[1]:
            wider = np.full((self.end_ids.shape[0], len(end_ids)), -2, dtype=np.int32)
            wider[:, : self.end_ids.shape[1]] = self.end_ids
            self.end_ids = wider
        self.end_ids[slot] = -2
        self.end_ids[slot, : len(end_ids)] = end_ids
