"""Flash attention of packed, ragged tokens over a paged cache: whole prompts, pieces of prompts, single tokens."""

from __future__ import annotations

import triton
import triton.language as tl

from .common import attend, narrow, query_as


# Sizes and indices change from step to step: what is compiled for one step has to serve all.
@triton.jit(
    do_not_specialize=["num_tokens", "num_rows", "table_width", "num_tiles"],
    do_not_specialize_on_alignment=["starts_ptr", "lengths_ptr", "tables_ptr"],
)
def flash_kernel(
    query_ptr,  # (N, QUERY_WIDTH), of which the first Hq · D are the queries
    cache_ptr,  # (P, 2, Hkv, BS, D)
    starts_ptr,  # (B + 1,)
    lengths_ptr,  # (B,)
    tables_ptr,  # (B, M)
    scale_ptr,  # (1,) float32
    num_tokens,
    num_rows,
    table_width,
    num_tiles,
    out_ptr,  # (N, Hq · D)
    SCALE: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    BS: tl.constexpr,
    WINDOW: tl.constexpr,
    PACK: tl.constexpr,
    QUERY_WIDTH: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Program (t, h): BLOCK_Q tokens of one row × PACK query heads of one K/V head are the BLOCK_M rows of a tile.

    Row r has the tiles from ``(starts[r] − starts[0]) // BLOCK_Q + r`` on, so that a tile finds its row on the device;
    the tile numbers between a row's last tile and the next row's first are idle. Tokens after the last row are padding
    and become 0.
    """
    tile = num_tiles - 1 - tl.program_id(0)  # late tiles see most keys: they start first
    origin = tl.load(starts_ptr)
    # Found by one load of all starts, not by a search: each load that waits for another costs 0.6 µs.
    row = origin * 0 - 1
    row_start = origin * 0
    row_end = row_start + num_tokens
    for base in range(0, num_rows + 1, 128):
        r = base + tl.arange(0, 128)
        start = tl.load(starts_ptr + r, mask=r <= num_rows, other=2147483647)
        mine_or_before = (r <= num_rows) & ((start - origin) // BLOCK_Q + r <= tile)
        row += tl.sum(mine_or_before.to(tl.int32), 0)
        row_start = tl.maximum(row_start, tl.max(tl.where(mine_or_before, start, 0), 0))
        row_end = tl.minimum(row_end, tl.min(tl.where(mine_or_before, 2147483647, start), 0))
    kv_length = tl.load(lengths_ptr + row, mask=row < num_rows, other=0)
    first_token = row_start + (tile - (row_start - origin) // BLOCK_Q - row) * BLOCK_Q
    if first_token < row_end:
        group = tl.program_id(1)
        kv_head = group * PACK // (HEADS // KV_HEADS)
        i = tl.arange(0, BLOCK_M)
        token = first_token + i // PACK
        d = tl.arange(0, BLOCK_D)
        mine = ((i < BLOCK_Q * PACK) & (token < row_end))[:, None] & (d < D)[None, :]
        head_at = (group * PACK + i % PACK) * D
        q_at = (token.to(tl.int64) * QUERY_WIDTH + head_at)[:, None] + d[None, :]
        q = query_as(tl.load(query_ptr + q_at, mask=mine, other=0.0), cache_ptr.dtype.element_ty)
        # Position of each query: the row's last token has position kv_length − 1.
        shift = kv_length - row_end
        position = token + shift
        first_position = first_token + shift
        end = tl.minimum(tl.minimum(first_token + BLOCK_Q, row_end) + shift, kv_length)
        scale = tl.load(scale_ptr)
        score_scale = scale * (SCALE * 1.4426950408889634)  # softmax in powers of two
        m = tl.full((BLOCK_M,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_M,), tl.float32)
        acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
        table = tables_ptr + row.to(tl.int64) * table_width
        begin = 0
        if WINDOW > 0:
            begin = tl.maximum(first_position - WINDOW + 1, 0) // BLOCK_N * BLOCK_N
        # Keys that every query of the tile sees, then those that only some see: a branch within one loop costs a tenth.
        whole = tl.maximum(first_position + 1, 0) // BLOCK_N * BLOCK_N
        if WINDOW == 0:
            for first in range(0, whole, BLOCK_N):
                m, total, acc = attend(
                    q, m, total, acc, cache_ptr, table, first, kv_length, position, False, kv_head, score_scale,
                    True, WINDOW, KV_HEADS, BS, D, BLOCK_N, BLOCK_D,
                )  # fmt: skip
            begin = whole
        for first in range(begin, end, BLOCK_N):
            m, total, acc = attend(
                q, m, total, acc, cache_ptr, table, first, kv_length, position, True, kv_head, score_scale,
                False, WINDOW, KV_HEADS, BS, D, BLOCK_N, BLOCK_D,
            )  # fmt: skip
        out = acc * (scale / tl.where(total == 0.0, 1.0, total))[:, None]
        offsets = (token.to(tl.int64) * (HEADS * D) + head_at)[:, None] + d[None, :]
        tl.store(out_ptr + offsets, narrow(out, out_ptr.dtype.element_ty), mask=mine)
