"""Rotate queries and keys, and write keys and values into the paged cache: one pass over the packed projections."""

from __future__ import annotations

import triton
import triton.language as tl

from .common import narrow, rotated, store_as


@triton.jit
def cache_update_kernel(
    qkv_ptr,  # (N, (Hq + 2 Hkv) · D)
    cos_ptr,  # (positions, ROTARY / 2)
    sin_ptr,
    positions_ptr,  # (N,)
    rows_ptr,  # (N,)
    tables_ptr,  # (B, M)
    scale_ptr,  # (1,) float32
    cache_in_ptr,  # (P, 2, Hkv, BS, D), the same memory as cache_ptr
    num_tokens,
    table_width,
    query_ptr,  # (N, Hq · D)
    cache_ptr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    BS: tl.constexpr,
    ROTARY: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    KIND: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Program (i, h): tokens i · BLOCK_T … of head h of the packed projections (queries, then keys, then values)."""
    head = tl.program_id(1)
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    row = tl.load(rows_ptr + token, mask=token < num_tokens, other=-1)
    live = row >= 0
    position = tl.load(positions_ptr + token, mask=live, other=0)  # padding takes position 0, which tables have
    d = tl.arange(0, BLOCK_D)
    mask = (token < num_tokens)[:, None] & (d < D)[None, :]
    offsets = (token.to(tl.int64) * ((HEADS + 2 * KV_HEADS) * D))[:, None] + head * D + d[None, :]
    if head < HEADS:
        x = rotated(qkv_ptr, offsets, d[None, :], position[:, None], mask, cos_ptr, sin_ptr, ROTARY, INTERLEAVED)
        at = (token.to(tl.int64) * (HEADS * D))[:, None] + head * D + d[None, :]
        tl.store(query_ptr + at, narrow(x, query_ptr.dtype.element_ty), mask=mask)
    else:
        kind = (head - HEADS) // KV_HEADS  # 0 keys, 1 values
        kv_head = (head - HEADS) % KV_HEADS
        if kind == 0:
            x = rotated(qkv_ptr, offsets, d[None, :], position[:, None], mask, cos_ptr, sin_ptr, ROTARY, INTERLEAVED)
        else:
            x = tl.load(qkv_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        block = tl.load(tables_ptr + row * table_width + position // BS, mask=live, other=0).to(tl.int64)
        slot = ((block * 2 + kind) * KV_HEADS + kv_head) * BS + position % BS
        scale = tl.load(scale_ptr)
        stored = store_as(x, scale, KIND, cache_ptr.dtype.element_ty)
        tl.store(cache_ptr + (slot * D)[:, None] + d[None, :], stored, mask=mask & live[:, None])


@triton.jit
def plain_cache_update_kernel(
    qkv_ptr,
    positions_ptr,
    rows_ptr,
    tables_ptr,
    scale_ptr,
    cache_in_ptr,
    num_tokens,
    table_width,
    query_ptr,
    cache_ptr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    BS: tl.constexpr,
    KIND: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """`cache_update_kernel` for models whose positions are learned: nothing is rotated."""
    cache_update_kernel(
        qkv_ptr, scale_ptr, scale_ptr, positions_ptr, rows_ptr, tables_ptr, scale_ptr, cache_in_ptr, num_tokens,
        table_width, query_ptr, cache_ptr, HEADS, KV_HEADS, D, BS, 0, False, KIND, BLOCK_T, BLOCK_D,
    )  # fmt: skip
