"""Parts that the attention kernels share: addresses in the paged cache, rotation, quantization, one span of keys.

Triton functions: import this module only where Triton is installed. A pool is (P, 2, Hkv, BS, D), so that the tokens of
one block, head and kind lie one after the other: a tile of keys is one piece of memory.
"""

from __future__ import annotations

import triton
import triton.language as tl

INT8 = tl.constexpr(1)
FP8 = tl.constexpr(2)
FP8_MAX = tl.constexpr(448.0)
ROUNDING = tl.constexpr(12582912.0)
"""1.5 · 2²³: adding and subtracting it rounds to the nearest even integer, as ONNX and torch do."""


@triton.jit
def narrow(x, TYPE: tl.constexpr):
    """Round float32 to a type; said outright because Triton's interpreter would cut the bits off instead."""
    if TYPE == tl.float32:
        return x
    else:
        return x.to(TYPE, fp_downcast_rounding="rtne")


@triton.jit
def store_as(x, scale, KIND: tl.constexpr, TYPE: tl.constexpr):
    """Turn float32 keys or values into what the cache holds."""
    if KIND == INT8:
        x = tl.minimum(tl.maximum(tl.math.div_rn(x, scale), -128.0), 127.0)
        return ((x + ROUNDING) - ROUNDING).to(tl.int8)
    elif KIND == FP8:
        x = tl.minimum(tl.maximum(tl.math.div_rn(x, scale), -FP8_MAX), FP8_MAX)
        return narrow(x, tl.float8e4nv)
    else:
        return narrow(x, TYPE)


@triton.jit
def rotated(
    x_ptr,
    offsets,
    d,
    position,
    mask,
    cos_ptr,
    sin_ptr,
    ROTARY: tl.constexpr,
    INTERLEAVED: tl.constexpr,
):
    """Load heads and rotate their first ROTARY elements; float32.

    `offsets` are those of each element, `d` its number in the head, `position` that of its token; shapes broadcast.
    """
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    if ROTARY > 0:
        HALF: tl.constexpr = ROTARY // 2
        if INTERLEAVED:
            shift = 1 - 2 * (d & 1)  # the partner of an even element is the next one
            angle = d // 2
            sign = tl.where((d & 1) == 0, -1.0, 1.0)
        else:
            shift = tl.where(d < HALF, HALF, -HALF)
            angle = tl.where(d < HALF, d, d - HALF)
            sign = tl.where(d < HALF, -1.0, 1.0)
        turns = mask & (d < ROTARY)
        partner = tl.load(x_ptr + offsets + shift, mask=turns, other=0.0).to(tl.float32)
        at = position * HALF + angle
        c = tl.load(cos_ptr + at, mask=turns, other=1.0).to(tl.float32)
        s = tl.load(sin_ptr + at, mask=turns, other=0.0).to(tl.float32)
        x = x * c + sign * partner * s
    return x


@triton.jit
def widened(x, TYPE: tl.constexpr):
    """Turn stored keys or values into TYPE; those of a quantized cache are exact in float16, which is TYPE then.

    A signed byte plus 128 becomes the mantissa of a number from 1024 on, which 1152 is subtracted from: two operations
    on pairs of numbers instead of a conversion each.
    """
    if x.dtype == tl.int8:
        if TYPE == tl.float16:
            return ((x.to(tl.int16) + 128) | 0x6400).to(tl.float16, bitcast=True) - 1152.0
        else:
            return x.to(TYPE)
    else:
        return x.to(TYPE)


@triton.jit
def query_as(q, CACHE_TYPE: tl.constexpr):
    """Turn queries into the type of the products: float16 over a quantized 8-bit cache, unless they are float32."""
    if CACHE_TYPE.primitive_bitwidth == 8:
        if q.dtype == tl.bfloat16:
            wide = tl.minimum(tl.maximum(q.to(tl.float32), -65504.0), 65504.0)
            return narrow(wide, tl.float16)
        else:
            return q
    else:
        return q


@triton.jit
def tile_offsets(
    table_ptr,
    first,
    last,
    kv_head,
    KIND_OF: tl.constexpr,
    KV_HEADS: tl.constexpr,
    BS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Return the pool offsets of slots ``first … first + BLOCK_N − 1`` of one row: (BLOCK_N,) int64.

    `table_ptr` is the row's block table, `last` the number of slots whose blocks may be read. A tile within one block
    needs one table entry; `first` is a multiple of BLOCK_N then.
    """
    n = tl.arange(0, BLOCK_N)
    if BS % BLOCK_N == 0:
        block = tl.load(table_ptr + first // BS).to(tl.int64)
        start = ((block * 2 + KIND_OF) * KV_HEADS + kv_head) * BS + first % BS
        return (start + n) * D
    else:
        slot = first + n
        block = tl.load(table_ptr + slot // BS, mask=slot < last, other=0).to(tl.int64)
        return (((block * 2 + KIND_OF) * KV_HEADS + kv_head) * BS + slot % BS) * D


@triton.jit
def attend(
    q,
    m,
    total,
    acc,
    cache_ptr,
    table_ptr,
    first,
    last,
    query_position,
    hides,
    kv_head,
    score_scale,
    WHOLE: tl.constexpr,
    WINDOW: tl.constexpr,
    KV_HEADS: tl.constexpr,
    BS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Let queries see the keys ``first … first + BLOCK_N − 1`` of one row: one step of the online softmax.

    q (M, BLOCK_D) in the type of the products; m, total (M,) and acc (M, BLOCK_D) float32, kept in powers of two;
    `query_position` (M,). With WHOLE every query must see the whole tile. Without it, slots from `last` on are not
    read, and where `hides` is true, keys from `last` on, after a query, or before its window get no weight.
    """
    n = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    key_at = tile_offsets(table_ptr, first, last, kv_head, 0, KV_HEADS, BS, D, BLOCK_N)
    value_at = key_at + KV_HEADS * BS * D
    slot = first + n
    if WHOLE and BLOCK_D == D:
        k = tl.load(cache_ptr + key_at[:, None] + d[None, :])
        v = tl.load(cache_ptr + value_at[:, None] + d[None, :])
    else:
        if WHOLE:
            read = (d < D)[None, :]
        elif BLOCK_D == D:
            read = (slot < last)[:, None]
        else:
            read = (slot < last)[:, None] & (d < D)[None, :]
        k = tl.load(cache_ptr + key_at[:, None] + d[None, :], mask=read, other=0.0)
        v = tl.load(cache_ptr + value_at[:, None] + d[None, :], mask=read, other=0.0)
    scores = tl.dot(q, tl.trans(widened(k, q.dtype)), input_precision="ieee")
    if not WHOLE:  # noqa: SIM102 - known when compiled, the other when run
        if hides:
            seen = (slot[None, :] <= query_position[:, None]) & (slot[None, :] < last)
            if WINDOW > 0:
                seen = seen & (slot[None, :] > query_position[:, None] - WINDOW)
            scores = tl.where(seen, scores, float("-inf"))
    new_m = tl.maximum(m, tl.max(scores, 1) * score_scale)
    if WHOLE:
        pivot = new_m
    else:
        pivot = tl.where(new_m == float("-inf"), 0.0, new_m)  # a query that has seen nothing yet
    p = tl.exp2(scores * score_scale - pivot[:, None])
    decay = tl.exp2(m - pivot)
    total = total * decay + tl.sum(p, 1)
    acc = tl.dot(narrow(p, q.dtype), widened(v, q.dtype), acc * decay[:, None], input_precision="ieee")
    return new_m, total, acc
