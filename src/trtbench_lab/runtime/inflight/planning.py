"""From who takes part in a step to its packed arrays, in NumPy over all rows at once."""

from __future__ import annotations

import numpy as np

from ...errors import EngineError
from .draws import uniforms
from .plan_buffers import PlanBuffers
from .rows import Rows
from .sequence import Sequence
from .stepper import SamplingPlan, StepLimits, StepPlan


def step_plan(
    number: int,
    rows: Rows,
    limits: StepLimits,
    buffers: PlanBuffers,
    decode: np.ndarray,
    pieces: list[tuple[int, int]],
    sampled: np.ndarray,
    finishing: list[Sequence],
) -> StepPlan:
    """Write a step's arrays; the rows are as they were before it.

    Parameters
    ----------
    decode
        (D,) slots of the rows that decode a token.
    pieces
        (slot, tokens) of the rows that take in a piece of their prompt.
    sampled
        (K,) slots whose next token is chosen: `decode`, then the rows whose piece is their prompt's last.
    finishing
        The requests of those last.
    """
    arrays = buffers.arrays
    num_decode, num_rows = len(decode), len(decode) + len(pieces)
    input_ids, token_slots = arrays["input_ids"], arrays["token_slots"]
    positions, token_rows = arrays["position_ids"], arrays["token_rows"]
    starts, lengths, wanted = arrays["query_starts"], arrays["kv_lengths"], arrays["logit_indices"]
    cached = rows.cached[decode]
    input_ids[:num_decode] = 0
    token_slots[:num_decode] = decode
    positions[:num_decode] = cached
    token_rows[:num_decode] = wanted[:num_decode] = np.arange(num_decode)
    starts[: num_decode + 1] = np.arange(num_decode + 1)
    lengths[:num_decode] = cached + 1
    begin, num_logits = num_decode, num_decode
    for row, (slot, length) in enumerate(pieces, start=num_decode):
        end, first = begin + length, int(rows.cached[slot])
        sequence = rows.sequences[slot]
        if sequence is None:
            raise EngineError("A piece of a prompt was planned for nobody.", where=f"slot {slot}")
        input_ids[begin:end] = _text(rows, slot, sequence, first, length)
        token_slots[begin:end] = -1
        positions[begin:end] = np.arange(first, first + length)
        token_rows[begin:end] = row
        starts[row + 1] = end
        lengths[row] = first + length
        if first + length == sequence.prefill_length:
            wanted[num_logits] = end - 1
            num_logits += 1
        begin = end
    slots = decode if not pieces else np.concatenate((decode, [slot for slot, _ in pieces]))
    # Columns in use: what a row attends to lies in its first blocks; a device copy of fixed shape takes all columns.
    max_kv_length = int(lengths[:num_rows].max())
    columns = -(-max_kv_length // limits.tokens_per_block)
    np.take(rows.tables, slots, axis=0, out=arrays["block_tables"][:num_rows], mode="clip")
    arrays["sample_slots"][:num_logits] = sampled
    return StepPlan(
        number=number,
        num_tokens=begin,
        num_rows=num_rows,
        num_decode_rows=num_decode,
        num_logits=num_logits,
        num_columns=columns,
        max_kv_length=max_kv_length,
        input_ids=input_ids[:begin],
        token_slots=token_slots[:begin],
        position_ids=positions[:begin],
        token_rows=token_rows[:begin],
        query_starts=starts[: num_rows + 1],
        kv_lengths=lengths[:num_rows],
        block_tables=arrays["block_tables"][:num_rows],
        logit_indices=wanted[:num_logits],
        sampling=_sampling(rows, sampled, arrays["sample_slots"][:num_logits], finishing),
        buffers=buffers,
    )


def faulty_logits(sequence: Sequence) -> EngineError:
    """The error of a request whose logits hold NaN; the others of the batch go on."""
    return EngineError(
        f"The engine gives NaN for token {len(sequence.generated)} of this request.",
        where=f"request {sequence.number}",
        remedy="Look for NaN in the checkpoint's weights; in float16 the activations may have overflowed: build with "
        "compute_dtype='float32'.",
    )


def _text(rows: Rows, slot: int, sequence: Sequence, first: int, length: int) -> np.ndarray:
    """Tokens `first` to `first + length` of prompt and what was generated before the request was put off."""
    prompt = sequence.prompt
    if first + length <= len(prompt):
        return prompt[first : first + length]
    again = rows.generated[slot, : sequence.prefill_length - len(prompt)]
    return np.concatenate((prompt, again))[first : first + length]


def _sampling(rows: Rows, sampled: np.ndarray, slots: np.ndarray, finishing: list[Sequence]) -> SamplingPlan:
    plain = bool(rows.plain[sampled].all())
    if plain:
        nothing = np.empty(0, dtype=np.float32)
        return SamplingPlan(True, slots, nothing, *(nothing,) * 7)
    counts = rows.counts_tokens
    bans = [(row, token) for row in np.flatnonzero(rows.bans[sampled]) for token in _banned(rows, int(sampled[row]))]
    return SamplingPlan(
        plain=False,
        slots=slots,
        greedy=rows.greedy[sampled],
        temperature=rows.temperature[sampled],
        top_k=rows.top_k[sampled],
        top_p=rows.top_p[sampled],
        uniforms=uniforms(rows.seed[sampled], rows.chosen[sampled]),
        repetition=rows.repetition[sampled],
        presence=rows.presence[sampled],
        frequency=rows.frequency[sampled],
        counts_tokens=bool(counts[sampled].any()),
        count_resets=[
            (s.slot, np.concatenate((s.prompt, np.asarray(s.generated, dtype=np.int32))))
            for s in finishing
            if counts[s.slot]
        ],
        ban_rows=np.array([row for row, _ in bans], dtype=np.int64) if bans else None,
        ban_tokens=np.array([token for _, token in bans], dtype=np.int64) if bans else None,
        log_probs=bool(rows.log_probs[sampled].any()),
    )


def _banned(rows: Rows, slot: int) -> list[int]:
    """Tokens that the row's next one must not be."""
    sequence = rows.sequences[slot]
    if sequence is None:
        return []
    rules, chosen = sequence.request.rules, int(rows.chosen[slot])
    banned = list(rules.end_ids) if chosen < rules.min_new_tokens else []
    known = rows.generated[slot, : rows.known[slot]]
    for word in sequence.bad_words:
        before = len(word) - 1
        if before == 0:
            banned.append(word[-1])
            continue
        # What the word continues may begin in the prompt.
        text = known[-before:] if len(known) >= before else np.concatenate((sequence.prompt, known))[-before:]
        if len(text) == before and tuple(text.tolist()) == word[:-1]:
            banned.append(word[-1])
    return banned
