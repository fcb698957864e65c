"""Attention of a decode step in one kernel: rotate q and k, append k and v to the cache, attend over splits, combine.

A program takes one sequence, one K/V head with its group of query heads, and one part of the visible keys. The part
that holds the new token's position writes it to the cache and uses the written (rounded, quantized) value itself. The
last program of a head to finish combines the parts, in a fixed order, so equal inputs give equal bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .....plugins.gpt_attention.kernels.common import FP8, INT8, store_as


@triton.jit
def _rotated(base, d, cos_ptr, sin_ptr, position, R: tl.constexpr, D: tl.constexpr, INTERLEAVED: tl.constexpr,
             mask):  # fmt: skip
    """Values at base + d, rotated by the position's angles; float32, rounded as the model's type rounds."""
    x = tl.load(base + d, mask=mask & (d < D), other=0.0)
    if R == 0:
        return x.to(tl.float32)
    else:
        turned = d < 2 * R
        if INTERLEAVED:
            partner = d ^ 1
            pair = d // 2
            sign = tl.where(d % 2 == 0, -1.0, 1.0)
        else:
            partner = tl.where(d < R, d + R, d - R)
            pair = d % R
            sign = tl.where(d < R, -1.0, 1.0)
        other = tl.load(base + partner, mask=mask & turned & (d < D), other=0.0).to(tl.float32)
        cos = tl.load(cos_ptr + position * R + pair, mask=turned, other=1.0).to(tl.float32)
        sin = tl.load(sin_ptr + position * R + pair, mask=turned, other=0.0).to(tl.float32)
        return (x.to(tl.float32) * cos + sign * other * sin).to(x.dtype).to(tl.float32)


@triton.jit
def _stored(x, scale, dtype: tl.constexpr, KV_QUANT: tl.constexpr):
    """What the cache keeps of float32 x: by the attention plugin's own rule, so that both write the same bits."""
    if KV_QUANT == 1:
        return store_as(x, scale, INT8, dtype)
    elif KV_QUANT == 3:
        return store_as(x, scale, FP8, dtype)
    else:
        return x.to(dtype)


@triton.jit
def _tile(cache_ptr, table, keys, stop, d, head, HKV: tl.constexpr, BLOCK_SIZE: tl.constexpr, D: tl.constexpr):
    """Keys and values (TILE, D) of the cache as stored, zeros from `stop` on; and which keys there are."""
    seen = keys < stop
    block = tl.load(table + keys // BLOCK_SIZE, mask=seen, other=0).to(tl.int64)
    slot = ((block * 2) * HKV + head) * BLOCK_SIZE + keys % BLOCK_SIZE
    where = slot[:, None] * D + d[None, :]
    loaded = seen[:, None] & (d < D)[None, :]
    k = tl.load(cache_ptr + where, mask=loaded, other=0.0)
    v = tl.load(cache_ptr + where + HKV * BLOCK_SIZE * D, mask=loaded, other=0.0)
    return k, v, seen


@triton.jit
def _attend(q, k, v, seen, top, mass, acc, kv_scale, dtype: tl.constexpr, KV_QUANT: tl.constexpr):
    """Take one tile into the running softmax of a group of query heads, by products of the matrix units."""
    score = tl.dot(q, tl.trans(k.to(dtype)), input_precision="ieee")
    if KV_QUANT != 0:
        score *= kv_scale
    score = tl.where(seen[None, :], score, -1.0e30)
    new_top = tl.maximum(top, tl.max(score, axis=1))
    keep = tl.exp2(top - new_top)
    weight = tl.where(seen[None, :], tl.exp2(score - new_top[:, None]), 0.0)
    mass = mass * keep + tl.sum(weight, axis=1)
    acc = acc * keep[:, None] + tl.dot(weight.to(dtype), v.to(dtype), input_precision="ieee")
    return new_top, mass, acc


@triton.jit(do_not_specialize=["M"], do_not_specialize_on_alignment=["positions_ptr", "tables_ptr"])
def decode_attention_kernel(
    qkv_ptr, cache_ptr, cos_ptr, sin_ptr, positions_ptr, tables_ptr, out_ptr, part_ptr, stat_ptr, count_ptr,
    softmax_scale, kv_scale, M,
    H: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, D_PADDED: tl.constexpr, R: tl.constexpr,
    INTERLEAVED: tl.constexpr, BLOCK_SIZE: tl.constexpr, GROUP: tl.constexpr, GROUP_PADDED: tl.constexpr,
    SPLITS: tl.constexpr, TILE: tl.constexpr, WINDOW: tl.constexpr, KV_QUANT: tl.constexpr, PDL: tl.constexpr,
    EARLY: tl.constexpr, AHEAD: tl.constexpr = False,
):  # fmt: skip
    """qkv (B, (H + 2 HKV) D), cache (P, 2, HKV, BLOCK_SIZE, D), tables (B, M), positions (B,), -1 = empty row.

    out (B, H · D); part (B, HKV, SPLITS, GROUP, D) float32, stat (…, 2), count (B · HKV) int32 zeros. AHEAD: each tile
    is requested before the one before it is used.
    """
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        if not EARLY:
            tl.extra.cuda.gdc_wait()
    row = tl.program_id(0) // HKV
    head = tl.program_id(0) % HKV
    split = tl.program_id(1)
    dtype: tl.constexpr = qkv_ptr.dtype.element_ty
    stored_dtype: tl.constexpr = cache_ptr.dtype.element_ty
    position = tl.load(positions_ptr + row)
    if position < 0:
        # Who waits for this kernel counts on those before it, too: where all rows are empty, nobody else waits here.
        if PDL and EARLY:
            tl.extra.cuda.gdc_wait()
        return
    first_key = 0
    if WINDOW > 0:
        first_key = tl.maximum(position - WINDOW + 1, 0)
    visible = position + 1 - first_key
    part_keys = (visible + SPLITS - 1) // SPLITS
    part_keys = (part_keys + TILE - 1) // TILE * TILE
    begin = first_key + split * part_keys
    if begin > position:
        return
    active = (visible + part_keys - 1) // part_keys
    end = tl.minimum(begin + part_keys, position + 1)
    owns_new = (begin <= position) & (position < end)
    stop = tl.minimum(end, position)

    t = tl.arange(0, TILE)
    d = tl.arange(0, D_PADDED)
    # The first tile of keys and values is asked for before the wait: only the new token depends on what runs now.
    k, v, seen = _tile(cache_ptr, tables_ptr + row * M, begin + t, stop, d, head, HKV, BLOCK_SIZE, D)
    k_next, v_next, seen_next = k, v, seen
    if AHEAD:
        k_next, v_next, seen_next = _tile(
            cache_ptr, tables_ptr + row * M, begin + TILE + t, stop, d, head, HKV, BLOCK_SIZE, D
        )
    if PDL and EARLY:
        tl.extra.cuda.gdc_wait()
    g = tl.arange(0, GROUP_PADDED)
    q_base = qkv_ptr + row * (H + 2 * HKV) * D + (head * GROUP + g)[:, None] * D
    q = _rotated(q_base, d[None, :], cos_ptr, sin_ptr, position, R, D, INTERLEAVED, (g < GROUP)[:, None])
    q = (q * softmax_scale * 1.4426950408889634).to(dtype)  # exp2 is the hardware's exponential

    k_new = tl.zeros((D_PADDED,), tl.float32)
    v_new = tl.zeros((D_PADDED,), tl.float32)
    if owns_new:
        k_base = qkv_ptr + row * (H + 2 * HKV) * D + (H + head) * D
        k_new = _rotated(k_base, d, cos_ptr, sin_ptr, position, R, D, INTERLEAVED, d < D)
        v_new = tl.load(k_base + HKV * D + d, mask=d < D, other=0.0).to(tl.float32)
        k_stored = _stored(k_new, kv_scale, stored_dtype, KV_QUANT)
        v_stored = _stored(v_new, kv_scale, stored_dtype, KV_QUANT)
        block = tl.load(tables_ptr + row * M + position // BLOCK_SIZE).to(tl.int64)
        slot = ((block * 2) * HKV + head) * BLOCK_SIZE + position % BLOCK_SIZE
        tl.store(cache_ptr + slot * D + d, k_stored, mask=d < D)
        tl.store(cache_ptr + (slot + HKV * BLOCK_SIZE) * D + d, v_stored, mask=d < D)
        k_new = k_stored.to(tl.float32)
        v_new = v_stored.to(tl.float32)

    top = tl.full((GROUP_PADDED,), -1.0e30, tl.float32)
    mass = tl.zeros((GROUP_PADDED,), tl.float32)
    acc = tl.zeros((GROUP_PADDED, D_PADDED), tl.float32)
    if owns_new:
        top = tl.sum(q.to(tl.float32) * k_new[None, :], axis=1)
        if KV_QUANT != 0:
            top *= kv_scale
        mass += 1.0
        acc += v_new[None, :]
    top, mass, acc = _attend(q, k, v, seen, top, mass, acc, kv_scale, dtype, KV_QUANT)
    for start in range(begin + TILE, stop, TILE):
        if AHEAD:
            k, v, seen = k_next, v_next, seen_next
            k_next, v_next, seen_next = _tile(
                cache_ptr, tables_ptr + row * M, start + TILE + t, stop, d, head, HKV, BLOCK_SIZE, D
            )
        else:
            k, v, seen = _tile(cache_ptr, tables_ptr + row * M, start + t, stop, d, head, HKV, BLOCK_SIZE, D)
        top, mass, acc = _attend(q, k, v, seen, top, mass, acc, kv_scale, dtype, KV_QUANT)
    if KV_QUANT != 0:
        acc *= kv_scale

    inside = (g < GROUP)[:, None] & (d < D)[None, :]
    out_at = out_ptr + row * H * D + (head * GROUP + g)[:, None] * D + d[None, :]
    if SPLITS == 1:
        tl.store(out_at, acc / mass[:, None], mask=inside)
    else:
        base = (row * HKV + head) * SPLITS
        part_at = part_ptr + ((base + split) * GROUP + g)[:, None] * D + d[None, :]
        tl.store(part_at, acc, mask=inside)
        stat_at = stat_ptr + ((base + split) * GROUP + g) * 2
        tl.store(stat_at, top, mask=g < GROUP)
        tl.store(stat_at + 1, mass, mask=g < GROUP)
        tl.debug_barrier()  # every thread's part is written before the one atomic that says so
        done = tl.atomic_add(count_ptr + row * HKV + head, 1, sem="acq_rel")
        if done == active - 1:
            tl.debug_barrier()
            tl.store(count_ptr + row * HKV + head, 0)
            parts = tl.arange(0, SPLITS)
            there = parts < active
            for head_of_group in tl.static_range(GROUP):
                at = (base + parts) * GROUP + head_of_group
                part_top = tl.load(stat_ptr + at * 2, mask=there, other=float("-inf"), cache_modifier=".cg")
                part_mass = tl.load(stat_ptr + at * 2 + 1, mask=there, other=0.0, cache_modifier=".cg")
                values = tl.load(
                    part_ptr + at[:, None] * D + d[None, :],
                    mask=there[:, None] & (d < D)[None, :],
                    other=0.0,
                    cache_modifier=".cg",
                )
                factor = tl.exp2(part_top - tl.max(part_top, axis=0))
                whole = tl.sum(part_mass * factor, axis=0)
                combined = tl.sum(values * factor[:, None], axis=0) / whole
                tl.store(out_ptr + row * H * D + (head * GROUP + head_of_group) * D + d, combined, mask=d < D)
