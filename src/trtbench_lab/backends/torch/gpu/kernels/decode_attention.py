"""Attention of a decode step in one kernel: rotate q and k, append k and v to the cache, attend over splits, combine.

A program takes one sequence, one K/V head with its group of query heads, and one part of the visible keys. The part that
holds the new token's position writes it to the cache and uses the written (rounded, quantized) value itself. The last
program of a head to finish combines the parts, in a fixed order, so equal inputs give equal bits.
"""

from __future__ import annotations

import triton
import triton.language as tl


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
    """What the cache keeps of float32 x."""
    if KV_QUANT == 1:
        scaled = x / scale
        rounded = tl.where(scaled >= 0, tl.floor(scaled + 0.5), tl.ceil(scaled - 0.5))
        return tl.minimum(tl.maximum(rounded, -128.0), 127.0).to(tl.int8)
    elif KV_QUANT == 3:
        return tl.minimum(tl.maximum(x / scale, -448.0), 448.0).to(dtype)
    else:
        return x.to(dtype)


@triton.jit
def decode_attention_kernel(
    qkv_ptr, cache_ptr, cos_ptr, sin_ptr, positions_ptr, tables_ptr, out_ptr, part_ptr, stat_ptr, count_ptr,
    softmax_scale, kv_scale, M,
    H: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, D_PADDED: tl.constexpr, R: tl.constexpr,
    INTERLEAVED: tl.constexpr, BLOCK_SIZE: tl.constexpr, GROUP: tl.constexpr, GROUP_PADDED: tl.constexpr,
    SPLITS: tl.constexpr, TILE: tl.constexpr, WINDOW: tl.constexpr, KV_QUANT: tl.constexpr, PDL: tl.constexpr,
    USE_DOT: tl.constexpr,
):  # fmt: skip
    """qkv (B, (H + 2 HKV) D), cache (P, 2, HKV, BLOCK_SIZE, D), tables (B, M), positions (B,), -1 = empty row.

    out (B, H · D); part (B, HKV, SPLITS, GROUP, D) float32, stat (…, 2), count (B · HKV) int32 zeros.
    """
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    row = tl.program_id(0) // HKV
    head = tl.program_id(0) % HKV
    split = tl.program_id(1)
    position = tl.load(positions_ptr + row)
    if position < 0:
        return
    dtype: tl.constexpr = qkv_ptr.dtype.element_ty
    stored_dtype: tl.constexpr = cache_ptr.dtype.element_ty
    first_key = 0
    if WINDOW > 0:
        first_key = tl.maximum(position - WINDOW + 1, 0)
    visible = position + 1 - first_key
    part_keys = (visible + SPLITS - 1) // SPLITS
    part_keys = (part_keys + TILE - 1) // TILE * TILE
    begin = first_key + split * part_keys
    end = tl.minimum(begin + part_keys, position + 1)
    owns_new = (begin <= position) & (position < end)

    g = tl.arange(0, GROUP_PADDED)
    d = tl.arange(0, D_PADDED)
    q_base = qkv_ptr + row * (H + 2 * HKV) * D + (head * GROUP + g)[:, None] * D
    q = _rotated(q_base, d[None, :], cos_ptr, sin_ptr, position, R, D, INTERLEAVED, (g < GROUP)[:, None])
    q = (q * softmax_scale * 1.4426950408889634).to(dtype)  # exp2 is the hardware's exponential

    top = tl.full((GROUP_PADDED,), float("-inf"), tl.float32)
    mass = tl.zeros((GROUP_PADDED,), tl.float32)
    acc = tl.zeros((GROUP_PADDED, D_PADDED), tl.float32)
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
        k_seen = k_stored.to(tl.float32)
        v_seen = v_stored.to(tl.float32)
        if KV_QUANT != 0:
            k_seen *= kv_scale
            v_seen *= kv_scale
        top = tl.sum(q.to(tl.float32) * k_seen[None, :], axis=1)
        mass += 1.0
        acc += v_seen[None, :]

    t = tl.arange(0, TILE)
    for start in range(begin, tl.minimum(end, position), TILE):
        keys = start + t
        seen = (keys < end) & (keys < position)
        block = tl.load(tables_ptr + row * M + keys // BLOCK_SIZE, mask=seen, other=0).to(tl.int64)
        slot = ((block * 2) * HKV + head) * BLOCK_SIZE + keys % BLOCK_SIZE
        where = slot[:, None] * D + d[None, :]
        loaded = seen[:, None] & (d < D)[None, :]
        k = tl.load(cache_ptr + where, mask=loaded, other=0.0)
        v = tl.load(cache_ptr + where + HKV * BLOCK_SIZE * D, mask=loaded, other=0.0)
        if USE_DOT:
            score = tl.dot(q, tl.trans(k.to(dtype)))
        else:
            score = tl.sum(q.to(tl.float32)[:, None, :] * k.to(tl.float32)[None, :, :], axis=2)
        if KV_QUANT != 0:
            score *= kv_scale
        score = tl.where(seen[None, :], score, float("-inf"))
        new_top = tl.maximum(top, tl.max(score, axis=1))
        keep = tl.exp2(top - new_top)
        weight = tl.exp2(score - new_top[:, None])
        mass = mass * keep + tl.sum(weight, axis=1)
        if USE_DOT:
            added = tl.dot(weight.to(dtype), v.to(dtype))
        else:
            added = tl.sum(weight[:, :, None] * v.to(tl.float32)[None, :, :], axis=1)
        if KV_QUANT != 0:
            added *= kv_scale
        acc = acc * keep[:, None] + added
        top = new_top

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
        tl.debug_barrier()
        done = tl.atomic_add(count_ptr + row * HKV + head, 1, sem="acq_rel")
        if done == SPLITS - 1:
            tl.debug_barrier()
            best = tl.full((GROUP_PADDED,), float("-inf"), tl.float32)
            for other in range(SPLITS):
                at = stat_ptr + ((base + other) * GROUP + g) * 2
                best = tl.maximum(best, tl.load(at, mask=g < GROUP, other=0.0, cache_modifier=".cg"))
            mass = tl.zeros((GROUP_PADDED,), tl.float32)
            acc = tl.zeros((GROUP_PADDED, D_PADDED), tl.float32)
            for other in range(SPLITS):
                at = stat_ptr + ((base + other) * GROUP + g) * 2
                part_top = tl.load(at, mask=g < GROUP, other=float("-inf"), cache_modifier=".cg")
                part_mass = tl.load(at + 1, mask=g < GROUP, other=0.0, cache_modifier=".cg")
                at = part_ptr + ((base + other) * GROUP + g)[:, None] * D + d[None, :]
                factor = tl.exp2(part_top - best)
                mass += part_mass * factor
                acc += tl.load(at, mask=inside, other=0.0, cache_modifier=".cg") * factor[:, None]
            tl.store(out_at, acc / mass[:, None], mask=inside)
            tl.store(count_ptr + row * HKV + head, 0)
