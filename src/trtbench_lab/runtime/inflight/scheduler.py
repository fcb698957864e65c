"""Who is in the next step: decoding rows first, then pieces of prompts; blocks are found, or somebody is put off.

Rules, in the order in which they are applied to each step:

1. Every decoding row takes one token (those that waited longest first, should there be more rows than tokens).
2. A row whose last block is full takes one more. Where none is left, the youngest running request is put off: its
   blocks are given back, and it starts again later from its prompt and what it had generated ("preemption by
   recompute"). The oldest request is never put off, so the batch as a whole always moves.
3. Requests that are still taking in their prompt go on, the oldest first, with the tokens that are left.
4. Waiting requests enter in the order of arrival (those put off come first) while there are slots, tokens, and blocks
   for their whole prompt beside a reserve. The first that does not fit stops the others: nobody is overtaken for ever.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import RequestError
from . import planning
from .blocks import BlockManager, block_digest
from .plan_buffers import BufferRing
from .rows import Rows
from .sequence import CANCELLED, END_ID, FAILED, FINISHED, LENGTH, RUNNING, STOP_WORDS, WAITING, Sequence
from .stepper import FAULTY_TOKEN, StepLimits, StepPlan

__all__ = ["PlannedStep", "Scheduler", "StepCounts"]


@dataclass(frozen=True)
class StepCounts:
    """What one step held, for timelines.

    Attributes
    ----------
    decode_rows, prompt_rows, prompt_tokens
        Rows that decoded, rows that took in a piece of a prompt, and the tokens of those pieces.
    waiting, running, blocks_in_use
        Requests in line and in the batch, and blocks held, after planning.
    """

    decode_rows: int
    prompt_rows: int
    prompt_tokens: int
    waiting: int
    running: int
    blocks_in_use: int


@dataclass
class PlannedStep:
    """A plan and whom its tokens are for."""

    plan: StepPlan
    counts: StepCounts
    owners: np.ndarray  # (K,) Sequence
    members: list[Sequence]  # everybody who has a row in it


class Scheduler:
    """Plans steps and takes in their tokens; used by one thread.

    Parameters
    ----------
    limits
        The runner's.
    max_seq_len
        Most tokens of prompt and output together; None: what the pool holds.
    reuse
        Whether cached blocks of equal beginnings are used again.
    queue_depth, pinned
        Steps the runner holds at a time, and whether its host memory is pinned.
    """

    def __init__(
        self,
        limits: StepLimits,
        *,
        max_seq_len: int | None = None,
        reuse: bool = True,
        queue_depth: int = 1,
        pinned: bool = False,
    ) -> None:
        self.limits = limits
        self.blocks = BlockManager(limits.num_blocks, limits.tokens_per_block, reuse=reuse)
        self.rows = Rows(limits)
        self.waiting: deque[Sequence] = deque()
        self.preemptions = 0
        room = limits.max_blocks_per_row * limits.tokens_per_block
        self.max_seq_len = room if max_seq_len is None else min(room, max_seq_len)
        # A hundredth of the pool stays free when somebody enters, so that entering does not put off the next to grow.
        self._reserve = max(1, self.blocks.usable // 100)
        self._buffers = BufferRing(limits, queue_depth, pinned=pinned)
        self._number = 0

    # ---- coming and going ---------------------------------------------------------------------------------------

    def check(self, prompt_length: int, max_new_tokens: int) -> None:
        """Raise `RequestError` for a request that could never run, whatever else is in the batch."""
        total = prompt_length + max_new_tokens
        if total > self.max_seq_len:
            room = self.max_seq_len - prompt_length
            raise RequestError(
                f"The prompt has {prompt_length} tokens; with {max_new_tokens} new ones that is {total}, and sequences "
                f"of this engine have at most {self.max_seq_len}.",
                where="max_new_tokens",
                remedy=(f"Ask for at most {room} new tokens" if room > 0 else "Shorten the prompt")
                + f", or build with max_seq_len={total} (if the model has that many positions).",
            )
        needed = self.blocks.blocks_for(total)
        if needed > self.blocks.usable:
            raise RequestError(
                f"The request may need {needed} cache blocks of {self.limits.tokens_per_block} tokens, and the whole "
                f"cache has {self.blocks.usable}: it could never run to its end.",
                where="max_new_tokens",
                remedy="Ask for fewer new tokens, shorten the prompt, or give the cache more memory "
                "(kv_cache_bytes or kv_cache_fraction).",
            )

    def add(self, sequence: Sequence) -> None:
        """Put a checked request in line."""
        self.check(len(sequence.prompt), sequence.max_new_tokens)
        self.waiting.append(sequence)

    def cancel(self, sequence: Sequence) -> bool:
        """Take a request out at once; False where it had ended already."""
        return self._end(sequence, CANCELLED)

    def fail(self, sequence: Sequence, error: Exception) -> bool:
        """End a request with an error."""
        if sequence.state != FINISHED:
            sequence.error = error
        return self._end(sequence, FAILED)

    @property
    def has_work(self) -> bool:
        """Whether anybody waits or runs."""
        return bool(self.waiting) or self.rows.num_free < self.limits.max_batch_size

    def sequences(self) -> list[Sequence]:
        """Everybody who has not ended."""
        return [*self.rows.running(), *self.waiting]

    # ---- planning -----------------------------------------------------------------------------------------------

    def plan(self) -> PlannedStep | None:
        """Plan the next step; None when nobody can take part in one now."""
        decode = self._decode_slots()
        budget = self.limits.max_num_tokens - len(decode)
        pieces = self._running_pieces(budget)
        budget -= sum(length for _, length in pieces)
        self._admit(pieces, budget)
        if not len(decode) and not pieces:
            return None
        planned = self._planned(decode, pieces)
        self._number += 1
        return planned

    def _decode_slots(self) -> np.ndarray:
        """Slots of the rows that decode, each with room for its token."""
        rows = self.rows
        while True:
            ready = rows.decoding & (rows.chosen < rows.limit)
            if rows.waits.any():
                ready &= ~(rows.waits & (rows.chosen > rows.known))
            slots = np.flatnonzero(ready)
            if len(slots) > self.limits.max_num_tokens:
                longest_wait = np.argsort(rows.last_step[slots], kind="stable")
                slots = np.sort(slots[longest_wait[: self.limits.max_num_tokens]])
            full = slots[rows.cached[slots] == rows.num_blocks[slots] * self.limits.tokens_per_block]
            if len(full) <= self.blocks.available:
                break
            self._put_off(rows.running()[-1])
        for slot in full.tolist():
            self._grow(slot, 1)
        return slots

    def _running_pieces(self, budget: int) -> list[tuple[int, int]]:
        """(slot, tokens) of the prompts that go on; their blocks they have since they entered."""
        pieces = []
        rows = self.rows
        unfinished = np.flatnonzero(rows.used & ~rows.decoding)
        for slot in unfinished[np.argsort(rows.arrival[unfinished])].tolist():
            sequence = rows.sequences[slot]
            if sequence is None or budget < 1:
                break
            length = min(budget, sequence.prefill_length - int(rows.cached[slot]))
            pieces.append((slot, length))
            budget -= length
        return pieces

    def _admit(self, pieces: list[tuple[int, int]], budget: int) -> None:
        while self.waiting and budget > 0 and self.rows.num_free:
            sequence = self.waiting[0]
            if sequence.pending:  # put off with a token still on its way: that token is part of what it starts from
                break
            prefill_length = len(sequence.prompt) + len(sequence.generated)
            self._name_ahead(sequence, prefill_length)
            # The last token is always computed: somebody must give its logits.
            usable = sequence.digests[: (prefill_length - 1) // self.limits.tokens_per_block]
            known, idle = self.blocks.count_known(usable)
            needed = self.blocks.blocks_for(prefill_length) - known
            reserve = self._reserve if self.rows.num_free < self.limits.max_batch_size else 0
            if needed + idle + reserve > self.blocks.available:
                break
            if pieces and prefill_length - known * self.limits.tokens_per_block > budget:
                break  # it is cut in two only where it would be the step's only prompt: whole ones attend quicker
            self.waiting.popleft()
            slot = self._enter(sequence, usable, needed, prefill_length)
            length = min(budget, prefill_length - int(self.rows.cached[slot]))
            pieces.append((slot, length))
            budget -= length

    def _enter(self, sequence: Sequence, usable: list[bytes], needed: int, prefill_length: int) -> int:
        slot = self.rows.enter(sequence)
        sequence.state, sequence.prefill_length = RUNNING, prefill_length
        known = self.blocks.take_known(usable)
        sequence.blocks = list(known)
        sequence.num_named = len(known)
        self.rows.extend_table(slot, known)
        self._grow(slot, needed)
        reused = len(known) * self.limits.tokens_per_block
        self.rows.cached[slot] = reused
        sequence.reused_tokens += reused
        return slot

    def _grow(self, slot: int, count: int) -> None:
        sequence = self.rows.sequences[slot]
        if sequence is not None:
            blocks = self.blocks.take(count)
            sequence.blocks.extend(blocks)
            self.rows.extend_table(slot, blocks)

    def _planned(self, decode: np.ndarray, pieces: list[tuple[int, int]]) -> PlannedStep:
        rows = self.rows
        finishing = [
            (slot, sequence)
            for slot, length in pieces
            if (sequence := rows.sequences[slot]) is not None and rows.cached[slot] + length == sequence.prefill_length
        ]
        last = np.array([slot for slot, _ in finishing], dtype=np.int64)
        sampled = np.concatenate((decode, last))
        plan = planning.step_plan(
            self._number, rows, self.limits, self._buffers.take(), decode, pieces, sampled, [s for _, s in finishing]
        )
        owners = rows.owners[sampled]
        members = [*rows.owners[decode], *(rows.owners[slot] for slot, _ in pieces)]
        rows.cached[decode] += 1
        for slot, length in pieces:
            rows.cached[slot] += length
        rows.decoding[last] = True
        rows.chosen[sampled] += 1
        rows.last_step[sampled] = self._number
        for owner in owners:
            owner.pending += 1
        for slot, _ in pieces:
            self._name_blocks(rows.sequences[slot], int(rows.cached[slot]))
        counts = StepCounts(
            decode_rows=len(decode),
            prompt_rows=len(pieces),
            prompt_tokens=sum(length for _, length in pieces),
            waiting=len(self.waiting),
            running=self.limits.max_batch_size - rows.num_free,
            blocks_in_use=self.blocks.in_use,
        )
        return PlannedStep(plan, counts, owners, members)

    # ---- taking in tokens ---------------------------------------------------------------------------------------

    def commit(
        self, step: PlannedStep, tokens: np.ndarray, now_ns: int, log_probs: np.ndarray | None = None
    ) -> list[Sequence]:
        """Take in a step's tokens, end those that are at their end, and return everybody with something new to show.

        Parameters
        ----------
        tokens
            (K,) from the step's ticket.
        now_ns
            When they were known.
        log_probs
            (K,) where the plan asked for them.
        """
        self._buffers.give_back(step.plan.buffers)
        rows = self.rows
        for owner in step.owners:
            owner.pending -= 1
        slots = np.array([owner.slot for owner in step.owners], dtype=np.int64)
        # Whoever was put off does not come back while a token of his is on its way, so a slot is the one of the plan.
        here = slots >= 0
        tokens = np.asarray(tokens)
        touched = self._late_tokens(step, tokens, ~here, now_ns, log_probs)
        slots, tokens = slots[here], tokens[here]
        if log_probs is not None:
            for slot, value in zip(slots.tolist(), log_probs[here].tolist(), strict=True):
                if rows.log_probs[slot]:
                    rows.owners[slot].log_probs.append(value)
        known = rows.known[slots]
        rows.generated[slots, known] = tokens
        rows.token_ns[slots, known] = now_ns
        rows.known[slots] = known + 1
        faulty = tokens == FAULTY_TOKEN
        ended = (tokens[:, None] == rows.end_ids[slots]).any(axis=1)
        stops = rows.stops[slots]
        if stops.any():
            for i in np.flatnonzero(stops & ~ended).tolist():
                slot = int(slots[i])
                ended[i] = rows.owners[slot].ends_with_stop_word(rows.generated[slot, : rows.known[slot]])
        over = faulty | ended | (rows.known[slots] >= rows.limit[slots])
        self._name_generated(slots[~over])
        streaming = [rows.owners[slot] for slot in slots[rows.streams[slots] & ~over].tolist()]
        for i in np.flatnonzero(over).tolist():
            sequence = rows.owners[int(slots[i])]
            self._finish(sequence, faulty=bool(faulty[i]))
            touched.append(sequence)
        return touched + streaming

    def _late_tokens(
        self, step: PlannedStep, tokens: np.ndarray, late: np.ndarray, now_ns: int, log_probs: np.ndarray | None
    ) -> list[Sequence]:
        """Take in tokens of requests that were put off meanwhile; those of requests that ended are dropped."""
        touched = []
        for i in np.flatnonzero(late).tolist():
            sequence, token = step.owners[i], int(tokens[i])
            if sequence.state != WAITING:
                continue
            sequence.generated.append(token)
            sequence.token_ns.append(now_ns)
            if log_probs is not None and sequence.request.config.output_log_probs:
                sequence.log_probs.append(float(log_probs[i]))
            known = np.array(sequence.generated)
            at_end = token in sequence.request.end_ids or sequence.ends_with_stop_word(known)
            if at_end or token == FAULTY_TOKEN or len(known) >= sequence.max_new_tokens:
                self._finish(sequence, faulty=token == FAULTY_TOKEN)
            touched.append(sequence)
        return touched

    def abandon(self, step: PlannedStep, error: Exception) -> list[Sequence]:
        """A step failed: end everybody who was in it, and trust no cached block any more."""
        self._buffers.give_back(step.plan.buffers)
        for owner in step.owners:
            owner.pending -= 1
        ended = [sequence for sequence in step.members if self.fail(sequence, error)]
        self.blocks.forget_all()
        for sequence in self.sequences():
            sequence.num_named = len(sequence.blocks)  # their content came before; still, nobody else reads it
        return ended

    def _finish(self, sequence: Sequence, *, faulty: bool) -> None:
        if faulty:
            sequence.error = planning.faulty_logits(sequence)
            self._end(sequence, FAILED)
            del sequence.generated[-1], sequence.token_ns[-1], sequence.log_probs[len(sequence.generated) :]
            return
        self._end(sequence, LENGTH)
        if sequence.generated[-1] in sequence.request.end_ids:
            sequence.finish_reason = END_ID
        elif sequence.ends_with_stop_word(np.array(sequence.generated)):
            sequence.finish_reason = STOP_WORDS

    def _end(self, sequence: Sequence, reason: str) -> bool:
        if sequence.state == FINISHED:
            return False
        if sequence.slot >= 0:
            self.rows.leave(sequence.slot)
            self.blocks.give_back(sequence.blocks)
            sequence.blocks = []
        else:
            self.waiting.remove(sequence)
        sequence.state, sequence.finish_reason = FINISHED, reason
        return True

    def _put_off(self, sequence: Sequence) -> None:
        self.rows.leave(sequence.slot)
        self.blocks.give_back(sequence.blocks)
        sequence.blocks, sequence.state, sequence.num_named = [], WAITING, 0
        sequence.preemptions += 1
        self.preemptions += 1
        # In order of arrival among those put off, all of them before those that never ran.
        place = sum(1 for other in self.waiting if other.preemptions and other.number < sequence.number)
        self.waiting.insert(place, sequence)

    # ---- names of full blocks -----------------------------------------------------------------------------------

    def _name_ahead(self, sequence: Sequence, tokens: int) -> None:
        """Work out the digests of the full blocks among a sequence's first `tokens` tokens."""
        if not self.blocks.reuse:
            return
        size = self.limits.tokens_per_block
        count = tokens // size
        if len(sequence.digests) >= count:
            return
        begin = len(sequence.digests) * size
        text = np.concatenate((sequence.prompt, np.asarray(self._generated(sequence), dtype=np.int32)))[begin:]
        for i in range(count - len(sequence.digests)):
            parent = sequence.digests[-1] if sequence.digests else b""
            sequence.digests.append(block_digest(parent, text[i * size : (i + 1) * size]))

    def _generated(self, sequence: Sequence) -> Any:
        slot = sequence.slot
        return sequence.generated if slot < 0 else self.rows.generated[slot, : self.rows.known[slot]]

    def _name_blocks(self, sequence: Sequence | None, cached: int) -> None:
        """Let the full blocks be found whose tokens are known and whose keys and values are written by now."""
        if sequence is None or not self.blocks.reuse:
            return
        full = cached // self.limits.tokens_per_block
        if full <= sequence.num_named:
            return
        self._name_ahead(sequence, full * self.limits.tokens_per_block)
        for index in range(sequence.num_named, full):
            self.blocks.name(sequence.blocks[index], sequence.digests[index])
        sequence.num_named = full

    def _name_generated(self, slots: np.ndarray) -> None:
        """The same for rows that decode: a block is named in the step that tells its last token."""
        if not self.blocks.reuse:
            return
        rows = self.rows
        certain = np.minimum(rows.prompt_length[slots] + rows.known[slots], rows.cached[slots])
        for i in np.flatnonzero(certain % self.limits.tokens_per_block == 0).tolist():
            slot = int(slots[i])
            self._name_blocks(rows.sequences[slot], int(certain[i]))
