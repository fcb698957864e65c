"""Attention of one new token a row, its keys split over several programs: bound by how fast the cache can be read.

Partial results go from `split_kernel` to `combine_kernel` as plain tensors: a plugin that was compiled ahead of time is
one kernel without memory of its own.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .common import attend, narrow, query_as


@triton.jit
def split_kernel(
    query_ptr,  # (N, QUERY_WIDTH), of which the first Hq · D are the queries
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
    QUERY_WIDTH: tl.constexpr,
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
    live = kv_length > 0
    token = tl.maximum(tl.load(starts_ptr + row + 1) - 1, 0).to(tl.int64)
    head = group * PACK + i
    q = tl.load(query_ptr + (token * QUERY_WIDTH + head * D)[:, None] + d[None, :], mask=mine & live, other=0.0)
    q = query_as(q, cache_ptr.dtype.element_ty)
    begin, end = span_of(split, kv_length, WINDOW, SPLITS, BLOCK_N)
    scale = tl.load(scale_ptr)
    m = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    table = tables_ptr + row.to(tl.int64) * table_width
    position = tl.zeros((BLOCK_M,), tl.int32) + kv_length - 1
    score_scale = scale * (SCALE * 1.4426950408889634)
    for first in range(begin, end, BLOCK_N):
        hides = first + BLOCK_N > end
        if WINDOW > 0:
            hides = hides | (first < kv_length - WINDOW)
        m, total, acc = attend(
            q, m, total, acc, cache_ptr, table, first, end, position, hides, kv_head, score_scale,
            False, WINDOW, KV_HEADS, BS, D, BLOCK_N, BLOCK_D,
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
