"""The sum over ranks in one kernel: every rank writes its part into the others' memory, waits for theirs, and adds.

A word of data travels in one 8-byte store with the number of the call beside it, so that whoever reads a word knows by
itself whether it has come: no fence, no second message. Two sets of buffers take turns. A rank writes into the set of
call n + 2 only after it has finished call n + 1, for which it needed the others' parts, which they sent after they had
finished call n: so nobody overwrites what is still read, in whatever order graphs are replayed.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _pair(word, KIND: tl.constexpr):
    """The values of a 4-byte word as float32: two of bfloat16 (1) or float16 (2), or one of float32 (0) twice."""
    if KIND == 0:
        value = word.to(tl.float32, bitcast=True)
        return value, value
    elif KIND == 1:
        low = (word << 16).to(tl.float32, bitcast=True)
        high = (word & -65536).to(tl.float32, bitcast=True)
        return low, high
    else:
        low = (word & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
        high = ((word >> 16) & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
        return low, high


@triton.jit
def _word(low, high, KIND: tl.constexpr):
    """Undo `_pair`, rounding."""
    if KIND == 0:
        return low.to(tl.int32, bitcast=True)
    elif KIND == 1:
        first = low.to(tl.bfloat16).to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
        return first | (high.to(tl.bfloat16).to(tl.int16, bitcast=True).to(tl.int32) << 16)
    else:
        first = low.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
        return first | (high.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32) << 16)


@triton.jit
def one_shot_kernel(
    x_ptr, residual_ptr, out_ptr, peers_ptr, calls_ptr, words, slots,
    RANK: tl.constexpr, WORLD: tl.constexpr, BLOCK: tl.constexpr, KIND: tl.constexpr, RESIDUAL: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """out = (residual +) the sum of the ranks' x, all as 4-byte words, added in float32 in the order of the ranks.

    peers (WORLD,) int64: addresses of the ranks' buffers, each (2, WORLD, slots) int64, zero at first; calls: int32,
    how often each program of this rank has run. Ranks call with the same sizes in the same order.
    """
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    program = tl.program_id(0)
    at = program * BLOCK + tl.arange(0, BLOCK)
    inside = at < words
    call = tl.load(calls_ptr + program) + 1
    number = call.to(tl.int64)
    own = tl.load(x_ptr + at, mask=inside, other=0)
    message = (own.to(tl.int64) & 0xFFFFFFFF) | (number << 32)
    buffers = (number & 1) * WORLD * slots
    for peer in tl.static_range(WORLD):
        if peer != RANK:
            target = tl.load(peers_ptr + peer).to(tl.pointer_type(tl.int64))
            tl.store(target + buffers + RANK * slots + at, message, mask=inside)
    if RESIDUAL:
        low, high = _pair(tl.load(residual_ptr + at, mask=inside, other=0), KIND)
    else:
        low = tl.zeros([BLOCK], tl.float32)
        high = tl.zeros([BLOCK], tl.float32)
    mine = tl.load(peers_ptr + RANK).to(tl.pointer_type(tl.int64)) + buffers
    for peer in tl.static_range(WORLD):
        if peer == RANK:
            first, second = _pair(own, KIND)
        else:
            source = mine + peer * slots + at
            got = tl.load(source, mask=inside, other=0, volatile=True)
            missing = tl.sum((((got >> 32) != number) & inside).to(tl.int32))
            while missing > 0:
                got = tl.load(source, mask=inside, other=0, volatile=True)
                missing = tl.sum((((got >> 32) != number) & inside).to(tl.int32))
            first, second = _pair(got.to(tl.int32), KIND)
        low += first
        high += second
    tl.store(out_ptr + at, _word(low, high, KIND), mask=inside)
    tl.store(calls_ptr + program, call)
