"""Attention of one new token a row, its keys split over several programs: bound by how fast the cache can be read.

Three kernels: `split_kernel` and `combine_kernel` hand partial results over as plain tensors; `decode_kernel` rotates,
writes the cache, attends and combines in one launch, where a caller keeps a little memory between launches.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .common import attend, narrow, rotated, store_as


@triton.jit
def split_kernel(
    query_ptr,  # (N, Hq · D)
    cache_ptr,  # (P, 2, Hkv, BS, D)
    starts_ptr,  # (B + 1,)
    lengths_ptr,  # (B,)
    tables_ptr,  # (B, M)
    scale_ptr,  # (1,) float32
    table_width,
    partial_ptr,  # (B, Hq, SPLITS, D) float32
    weight_ptr,  # (B, Hq, SPLITS) float32: log2 of the sum of weights, −inf where a split saw no key
    SCALE: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    BS: tl.constexpr,
    WINDOW: tl.constexpr,
    SPLITS: tl.constexpr,
    PACK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Program (r, h, s): the last token of row r, PACK query heads of one K/V head, part s of the row's keys."""
    row = tl.program_id(0)
    group = tl.program_id(1)
    split = tl.program_id(2)
    kv_length = tl.load(lengths_ptr + row)
    kv_head = group * PACK // (HEADS // KV_HEADS)
    i = tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    mine = (i < PACK)[:, None] & (d < D)[None, :]
    token = tl.maximum(tl.load(starts_ptr + row + 1) - 1, 0).to(tl.int64)
    head = group * PACK + i
    q = tl.load(query_ptr + (token * (HEADS * D) + head * D)[:, None] + d[None, :], mask=mine, other=0.0)
    begin, end = span_of(split, kv_length, WINDOW, SPLITS, BLOCK_N)
    scale = tl.load(scale_ptr)
    m = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    table = tables_ptr + row.to(tl.int64) * table_width
    position = tl.zeros((BLOCK_M,), tl.int32) + kv_length - 1
    score_scale = scale * (SCALE * 1.4426950408889634)
    if WINDOW == 0:
        whole = begin + tl.maximum(end - begin, 0) // BLOCK_N * BLOCK_N
        for first in range(begin, whole, BLOCK_N):
            m, total, acc = attend(
                q, m, total, acc, cache_ptr, table, first, end, position, kv_head, score_scale,
                False, WINDOW, KV_HEADS, BS, D, BLOCK_N, BLOCK_D,
            )  # fmt: skip
        begin = whole
    for first in range(begin, end, BLOCK_N):
        m, total, acc = attend(
            q, m, total, acc, cache_ptr, table, first, end, position, kv_head, score_scale,
            True, WINDOW, KV_HEADS, BS, D, BLOCK_N, BLOCK_D,
        )  # fmt: skip
    some = tl.where(total == 0.0, 1.0, total)
    at = (row.to(tl.int64) * HEADS + head) * SPLITS + split
    tl.store(partial_ptr + (at * D)[:, None] + d[None, :], acc * (scale / some)[:, None], mask=mine)
    weight = tl.where(total == 0.0, float("-inf"), m + tl.log2(some))
    tl.store(weight_ptr + at, weight, mask=i < PACK)


@triton.jit
def span_of(split, num_keys, WINDOW: tl.constexpr, SPLITS: tl.constexpr, BLOCK_N: tl.constexpr):
    """Return the keys of one part: a multiple of BLOCK_N of them each, the same for every part but the last ones."""
    oldest = 0
    if WINDOW > 0:
        oldest = tl.maximum(num_keys - WINDOW, 0) // BLOCK_N * BLOCK_N
    tiles = tl.cdiv(num_keys - oldest, BLOCK_N)
    size = tl.cdiv(tiles, SPLITS) * BLOCK_N
    begin = oldest + split * size
    return begin, tl.minimum(begin + size, num_keys)


@triton.jit
def combined(
    partial_ptr,
    weight_ptr,
    at,
    d,
    mask,
    SPLITS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    D: tl.constexpr,
):
    """Weigh the parts of one row and head, whose first is part number `at`; (BLOCK_D,) float32, 0 without any key."""
    s = tl.arange(0, BLOCK_S)
    weight = tl.load(weight_ptr + at + s, mask=s < SPLITS, other=float("-inf"), cache_modifier=".cg")
    most = tl.max(weight, 0)
    most = tl.where(most == float("-inf"), 0.0, most)
    share = tl.exp2(weight - most)
    whole = tl.sum(share, 0)
    share = share / tl.where(whole == 0.0, 1.0, whole)
    parts = tl.load(
        partial_ptr + ((at + s) * D)[:, None] + d[None, :],
        mask=(s < SPLITS)[:, None] & (share > 0.0)[:, None] & mask[None, :],
        other=0.0,
        cache_modifier=".cg",
    )
    return tl.sum(parts * share[:, None], 0)


@triton.jit
def combine_kernel(
    partial_ptr,  # (B, Hq, SPLITS, D) float32
    weight_ptr,  # (B, Hq, SPLITS) float32
    rows_ptr,  # (N,)
    like_ptr,  # (N, Hq · D): only its type is used
    num_tokens,
    out_ptr,  # (N, Hq · D)
    HEADS: tl.constexpr,
    D: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Program (i, h): token i of head h; padding becomes 0."""
    token = tl.program_id(0)
    head = tl.program_id(1)
    d = tl.arange(0, BLOCK_D)
    row = tl.load(rows_ptr + token).to(tl.int64)
    mask = (d < D) & (row >= 0)
    at = (tl.maximum(row, 0) * HEADS + head) * SPLITS
    out = combined(partial_ptr, weight_ptr, at, d, mask, SPLITS, BLOCK_S, D)
    at_out = (token.to(tl.int64) * HEADS + head) * D
    tl.store(out_ptr + at_out + d, narrow(tl.where(row >= 0, out, 0.0), out_ptr.dtype.element_ty), mask=d < D)


@triton.jit
def decode_kernel(
    qkv_ptr,  # (B, (Hq + 2 Hkv) · D)
    cos_ptr,
    sin_ptr,
    cache_ptr,  # (P, 2, Hkv, BS, D)
    lengths_ptr,  # (B,)
    tables_ptr,  # (B, M)
    scale_ptr,  # (1,) float32
    table_width,
    out_ptr,  # (B, Hq · D)
    partial_ptr,  # (B, Hq, SPLITS, D) float32, scratch
    weight_ptr,  # (B, Hq, SPLITS) float32, scratch
    arrived_ptr,  # (B · Hq / PACK,) int32, 0 before and after
    SCALE: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    BS: tl.constexpr,
    ROTARY: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    WINDOW: tl.constexpr,
    KIND: tl.constexpr,
    SPLITS: tl.constexpr,
    PACK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Program (r, h, s): one decode step of row r; row r's token is packed token r.

    The last part of a row makes the new key and value, writes them and takes them from registers; all parts read older
    keys only, so that no program reads what another one of the launch writes. Who arrives last combines, in the order
    of the parts: the result does not depend on who that is.
    """
    row = tl.program_id(0)
    group = tl.program_id(1)
    split = tl.program_id(2)
    kv_length = tl.load(lengths_ptr + row)
    past = tl.maximum(kv_length - 1, 0)  # keys in the cache, and the new token's position
    kv_head = group * PACK // (HEADS // KV_HEADS)
    TYPE: tl.constexpr = qkv_ptr.dtype.element_ty
    i = tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    live = kv_length > 0
    mine = (i < PACK)[:, None] & (d < D)[None, :] & live
    packed = row.to(tl.int64) * ((HEADS + 2 * KV_HEADS) * D)
    query_at = packed + ((group * PACK + i) * D)[:, None] + d[None, :]
    q = narrow(rotated(qkv_ptr, query_at, d[None, :], past, mine, cos_ptr, sin_ptr, ROTARY, INTERLEAVED), TYPE)
    scale = tl.load(scale_ptr)
    score_scale = scale * (SCALE * 1.4426950408889634)
    if WINDOW > 0:  # the new token counts as one of the window
        begin, end = span_of(split, past, WINDOW - 1 if WINDOW > 1 else WINDOW, SPLITS, BLOCK_N)
    else:
        begin, end = span_of(split, past, 0, SPLITS, BLOCK_N)
    m = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    table = tables_ptr + row.to(tl.int64) * table_width
    if split == SPLITS - 1:
        in_head = (d < D) & live
        key_at = packed + (HEADS + kv_head) * D + d
        key = rotated(qkv_ptr, key_at, d, past, in_head, cos_ptr, sin_ptr, ROTARY, INTERLEAVED)
        value = tl.load(qkv_ptr + key_at + KV_HEADS * D, mask=in_head, other=0.0).to(tl.float32)
        key_stored = store_as(key, scale, KIND, cache_ptr.dtype.element_ty)
        value_stored = store_as(value, scale, KIND, cache_ptr.dtype.element_ty)
        if group * PACK % (HEADS // KV_HEADS) == 0:
            block = tl.load(table + past // BS, mask=live, other=0).to(tl.int64)
            slot = ((block * 2) * KV_HEADS + kv_head) * BS + past % BS
            tl.store(cache_ptr + slot * D + d, key_stored, mask=in_head)
            tl.store(cache_ptr + (slot + KV_HEADS * BS) * D + d, value_stored, mask=in_head)
        # What the next step will read of it: as stored, in the computation's type.
        key = key_stored.to(TYPE).to(tl.float32)
        value = value_stored.to(TYPE).to(tl.float32)
        m = tl.sum(q.to(tl.float32) * key[None, :], 1) * score_scale
        total = tl.full((BLOCK_M,), 1.0, tl.float32)
        acc = acc + value[None, :]
    position = tl.zeros((BLOCK_M,), tl.int32) + past
    if WINDOW == 0:
        whole = begin + tl.maximum(end - begin, 0) // BLOCK_N * BLOCK_N
        for first in range(begin, whole, BLOCK_N):
            m, total, acc = attend(
                q, m, total, acc, cache_ptr, table, first, end, position, kv_head, score_scale,
                False, WINDOW, KV_HEADS, BS, D, BLOCK_N, BLOCK_D,
            )  # fmt: skip
        begin = whole
    for first in range(begin, end, BLOCK_N):
        m, total, acc = attend(
            q, m, total, acc, cache_ptr, table, first, end, position, kv_head, score_scale,
            True, WINDOW, KV_HEADS, BS, D, BLOCK_N, BLOCK_D,
        )  # fmt: skip
    some = tl.where(total == 0.0, 1.0, total)
    result = acc * (scale / some)[:, None]
    head = group * PACK + i
    out_at = ((row.to(tl.int64) * HEADS + head) * D)[:, None] + d[None, :]
    inside = (i < PACK)[:, None] & (d < D)[None, :]  # an empty row's output is 0
    if SPLITS == 1:
        tl.store(out_ptr + out_at, narrow(tl.where(live, result, 0.0), TYPE), mask=inside)
    else:
        at = (row.to(tl.int64) * HEADS + head) * SPLITS + split
        tl.store(partial_ptr + (at * D)[:, None] + d[None, :], result, mask=inside)
        tl.store(weight_ptr + at, tl.where(total == 0.0, float("-inf"), m + tl.log2(some)), mask=i < PACK)
        tl.debug_barrier()  # all threads' parts are written before the one atomic that says so
        counter = arrived_ptr + row * (HEADS // PACK) + group
        if tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == SPLITS - 1:
            tl.store(counter, 0)
            for j in range(PACK):
                at_head = (row.to(tl.int64) * HEADS + group * PACK + j) * SPLITS
                out = combined(partial_ptr, weight_ptr, at_head, d, d < D, SPLITS, BLOCK_S, D)
                out_head = (row.to(tl.int64) * HEADS + group * PACK + j) * D
                tl.store(out_ptr + out_head + d, narrow(tl.where(live, out, 0.0), TYPE), mask=d < D)
