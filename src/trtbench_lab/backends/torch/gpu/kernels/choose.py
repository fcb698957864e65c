"""Greedy choice at the end of a decode step: the largest logit, and the state of the next step, without the host."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def argmax_parts_kernel(
    logits_ptr, top_ptr, at_ptr, columns, V, PARTS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    """Largest of the first V logits of rows of `columns`, for each of PARTS pieces (the first of equals): top, at."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    row = tl.program_id(0)
    part = tl.program_id(1)
    column = part * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits_ptr + row.to(tl.int64) * columns + column, mask=column < V, other=float("-inf"))
    x = tl.where(x != x, float("-inf"), x)
    best = tl.max(x, axis=0)
    tl.store(top_ptr + row * PARTS + part, best)
    tl.store(at_ptr + row * PARTS + part, tl.min(tl.where(x == best, column, V - 1), axis=0))


@triton.jit(do_not_specialize=["B"])  # one kernel for every batch
def take_token_kernel(
    top_ptr, at_ptr, chosen_ptr, ids_ptr, positions_ptr, step_ptr, ring_ptr, B,
    PARTS: tl.constexpr, PARTS_PADDED: tl.constexpr, RING: tl.constexpr, GREEDY: tl.constexpr,
    ADVANCE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Make the chosen token the next step's input, advance its position, and give it to the host's ring (RING, B).

    GREEDY takes the token from the pieces' maxima, else from `chosen` (B,) int64. Rows at position -1 stay empty.
    """
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    row = tl.program_id(0)
    if GREEDY:
        part = tl.arange(0, PARTS_PADDED)
        top = tl.load(top_ptr + row * PARTS + part, mask=part < PARTS, other=float("-inf"))
        at = tl.load(at_ptr + row * PARTS + part, mask=part < PARTS, other=2147483647)
        token = tl.min(tl.where(top == tl.max(top, axis=0), at, 2147483647), axis=0)
    else:
        token = tl.load(chosen_ptr + row).to(tl.int32)
    step = tl.load(step_ptr + row)
    tl.store(ring_ptr + (step % RING) * B + row, token)
    tl.store(ids_ptr + row, token)
    tl.store(step_ptr + row, step + 1)
    if ADVANCE:
        position = tl.load(positions_ptr + row)
        tl.store(positions_ptr + row, tl.where(position < 0, position, position + 1))
