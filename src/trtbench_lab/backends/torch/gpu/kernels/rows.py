"""Kernels that pass over token rows: embedding, residual add and norm, activation, rotation with cache writing."""

from __future__ import annotations

import triton
import triton.language as tl

from .....plugins.matmul.kernels.common import to_fp8
from .common import activation, normalised, row_statistics
from .decode_attention import _rotated, _stored


# Indices are read one by one, whatever their alignment: a kernel of its own for each would be compiled at run time.
@triton.jit(do_not_specialize_on_alignment=["ids_ptr", "positions_ptr"])
def embed_kernel(
    ids_ptr, positions_ptr, table_ptr, position_table_ptr, out_ptr,
    WIDTH: tl.constexpr, WIDTH_PADDED: tl.constexpr, LEARNED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out (N, WIDTH) = table[ids] (+ position_table[positions]); padding (position -1) takes position 0."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH_PADDED)
    inside = column < WIDTH
    row = tl.load(ids_ptr + token).to(tl.int64)
    x = tl.load(table_ptr + row * WIDTH + column, mask=inside, other=0.0)
    if LEARNED:
        position = tl.maximum(tl.load(positions_ptr + token), 0).to(tl.int64)
        x += tl.load(position_table_ptr + position * WIDTH + column, mask=inside, other=0.0)
    tl.store(out_ptr + token * WIDTH + column, x, mask=inside)


@triton.jit
def add_norm_kernel(
    x_ptr, added_ptr, norm_w_ptr, norm_b_ptr, out_ptr, eps,
    WIDTH: tl.constexpr, WIDTH_PADDED: tl.constexpr, NORM: tl.constexpr, HAS_ADDED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """x += added, in place; out = norm(x)."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH_PADDED)[None, :]
    inside = column < WIDTH
    x = tl.load(x_ptr + token * WIDTH + column, mask=inside, other=0.0)
    if HAS_ADDED:
        x += tl.load(added_ptr + token * WIDTH + column, mask=inside, other=0.0)
        tl.store(x_ptr + token * WIDTH + column, x, mask=inside)
    wide = x.to(tl.float32)
    mean, rstd = row_statistics(wide, inside, WIDTH, eps, NORM)
    weight = tl.load(norm_w_ptr + column, mask=inside, other=0.0)
    bias = weight
    if NORM == 2:
        bias = tl.load(norm_b_ptr + column, mask=inside, other=0.0)
    y = normalised(wide, mean[:, None], rstd[:, None], weight, bias, NORM)
    tl.store(out_ptr + token * WIDTH + column, y, mask=inside)


@triton.jit
def activate_kernel(
    x_ptr, out_ptr, numel, step_ptr, ratio, gate_ratio, WIDTH: tl.constexpr, ACT: tl.constexpr, GATED: tl.constexpr,
    BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out (N, WIDTH) = act(x), or act(ratio · x[:, :WIDTH]) · gate_ratio · x[:, WIDTH:] where GATED.

    With a `step`, out is float8_e4m3fn in units of it.
    """
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < numel
    if GATED:
        token = at // WIDTH
        source = x_ptr + at + token * WIDTH
        fc = tl.load(source, mask=inside, other=0.0)
        gate = tl.load(source + WIDTH, mask=inside, other=0.0).to(tl.float32) * gate_ratio
        y = activation(fc.to(tl.float32) * ratio, ACT).to(fc.dtype).to(tl.float32) * gate
    else:
        y = activation(tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32), ACT)
    if step_ptr is None:
        tl.store(out_ptr + at, y, mask=inside)
    else:  # rounded to the computation's type first, as a separate operation does
        y = y.to(x_ptr.dtype.element_ty).to(tl.float32)
        tl.store(out_ptr + at, to_fp8(y / tl.load(step_ptr).to(tl.float32)), mask=inside)


@triton.jit(do_not_specialize=["M"], do_not_specialize_on_alignment=["positions_ptr", "rows_ptr", "tables_ptr"])
def rotate_and_write_kernel(
    qkv_ptr, cache_ptr, cos_ptr, sin_ptr, positions_ptr, rows_ptr, tables_ptr, kv_scale, M,
    H: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, D_PADDED: tl.constexpr, R: tl.constexpr,
    INTERLEAVED: tl.constexpr, BLOCK_SIZE: tl.constexpr, KV_QUANT: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """Rotate q and k of each token in place, and write k and v to the cache; nothing is written for padding tokens."""
    token = tl.program_id(0).to(tl.int64)
    row = tl.load(rows_ptr + token)
    if row < 0:
        return
    position = tl.load(positions_ptr + token)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    d = tl.arange(0, D_PADDED)[None, :]
    base = qkv_ptr + token * (H + 2 * HKV) * D + heads * D
    known = (heads < H + 2 * HKV) & (d < D)
    is_value = heads >= H + HKV
    plain = tl.load(base + d, mask=known, other=0.0)
    turned = _rotated(base, d, cos_ptr, sin_ptr, position, R, D, INTERLEAVED, heads < H + HKV)
    x = tl.where(is_value, plain.to(tl.float32), turned)
    tl.debug_barrier()  # partners were read from the places that are overwritten now
    if R > 0:
        tl.store(base + d, x, mask=known & (heads < H + HKV))
    block = tl.load(tables_ptr + row * M + position // BLOCK_SIZE).to(tl.int64)
    kv_head = tl.where(is_value, heads - H - HKV, heads - H)
    kind = tl.where(is_value, 1, 0)
    slot = ((block * 2 + kind) * HKV + kv_head) * BLOCK_SIZE + position % BLOCK_SIZE
    kept = _stored(x, kv_scale, cache_ptr.dtype.element_ty, KV_QUANT)
    tl.store(cache_ptr + slot * D + d, kept, mask=known & (heads >= H))
