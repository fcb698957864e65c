"""Matrix-vector product for one to a few tokens: norm → W x + b → activation → residual in one kernel.

A program owns BLOCK_N outputs and reads their weights as whole rows, 16 bytes a thread, straight into registers; several
programs share a multiprocessor, so one computes while others wait for memory. The first tile of weights is asked for
before the kernel waits for its input.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .common import activation, normalised, row_statistics


@triton.jit
def _tile(w_ptr, rows, k, N, K: tl.constexpr, BLOCK_K: tl.constexpr, EVEN: tl.constexpr):
    """(BLOCK_N, BLOCK_K) stored weights (bytes of 4-bit pairs where packed); K counts stored elements."""
    pointers = w_ptr + rows[:, None].to(tl.int64) * K + k[None, :]
    if EVEN:
        return tl.load(pointers)
    else:
        return tl.load(pointers, mask=(rows < N)[:, None] & (k < K)[None, :], other=0.0)


@triton.jit
def _product(w, x_low, x_high, scale, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, QUANT: tl.constexpr,
             GROUP: tl.constexpr):  # fmt: skip
    """Sum over this tile of w · x, float32 (BLOCK_N,); `scale` (BLOCK_N, groups of the tile) where GROUP."""
    if QUANT == 2:
        low = ((w << 4).to(tl.int8) >> 4).to(tl.float32)
        high = (w >> 4).to(tl.float32)
        terms = low * x_low[None, :] + high * x_high[None, :]
    else:
        terms = w.to(tl.float32) * x_low[None, :]
    if GROUP == 0:
        return tl.sum(terms, axis=1)
    else:
        width: tl.constexpr = GROUP // 2 if QUANT == 2 else GROUP
        grouped = tl.sum(tl.reshape(terms, (BLOCK_N, BLOCK_K // width, width)), axis=2)
        return tl.sum(grouped * scale, axis=1)


@triton.jit
def matvec_kernel(
    x_ptr, w_ptr, scale_ptr, bias_ptr, norm_w_ptr, norm_b_ptr, residual_ptr, y_ptr,
    eps, N,
    M: tl.constexpr, K: tl.constexpr, K_PADDED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    EVEN: tl.constexpr, NORM: tl.constexpr, ACT: tl.constexpr, GATED: tl.constexpr, QUANT: tl.constexpr,
    GROUP: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """y (M, N) = residual + act(norm(x) Wᵀ + b); gated: act(first half of W) · (second half).

    x (M, K); W (N or 2N, K) in its stored form; BLOCK_K counts stored elements (bytes where two share one).
    """
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    PACK: tl.constexpr = 2 if QUANT == 2 else 1
    STORED: tl.constexpr = K // PACK
    columns = tl.arange(0, BLOCK_K)
    gate_rows = rows + N
    limit = 2 * N if GATED else N
    w = _tile(w_ptr, rows, columns, N, STORED, BLOCK_K, EVEN)
    if GATED:
        g = _tile(w_ptr, gate_rows, columns, limit, STORED, BLOCK_K, EVEN)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    for m in tl.static_range(M):
        if NORM != 0:
            all_columns = tl.arange(0, K_PADDED)
            inside = (all_columns < K)[None, :]
            x_row = tl.load(x_ptr + m * K + all_columns[None, :], mask=inside, other=0.0).to(tl.float32)
            mean_row, rstd_row = row_statistics(x_row, inside, K, eps, NORM)
            mean = tl.sum(mean_row)
            rstd = tl.sum(rstd_row)
        else:
            mean = 0.0
            rstd = 1.0
        total = tl.zeros((BLOCK_N,), tl.float32)
        gate_total = tl.zeros((BLOCK_N,), tl.float32)
        for start in tl.static_range(0, STORED, BLOCK_K):
            k = start + columns
            if STORED > BLOCK_K and (start > 0 or m > 0):  # a whole row in one tile serves every token
                w = _tile(w_ptr, rows, k, N, STORED, BLOCK_K, EVEN)
                if GATED:
                    g = _tile(w_ptr, gate_rows, k, limit, STORED, BLOCK_K, EVEN)
            x_low = tl.load(x_ptr + m * K + k * PACK, mask=k < STORED, other=0.0)
            x_high = x_low
            if PACK == 2:
                x_high = tl.load(x_ptr + m * K + k * PACK + 1, mask=k < STORED, other=0.0)
            if NORM != 0:
                n_low = tl.load(norm_w_ptr + k * PACK, mask=k < STORED, other=0.0)
                b_low = n_low
                if NORM == 1:
                    b_low = tl.load(norm_b_ptr + k * PACK, mask=k < STORED, other=0.0)
                x_low = normalised(x_low.to(tl.float32), mean, rstd, n_low, b_low, NORM)
                if PACK == 2:
                    n_high = tl.load(norm_w_ptr + k * PACK + 1, mask=k < STORED, other=0.0)
                    b_high = n_high
                    if NORM == 1:
                        b_high = tl.load(norm_b_ptr + k * PACK + 1, mask=k < STORED, other=0.0)
                    x_high = normalised(x_high.to(tl.float32), mean, rstd, n_high, b_high, NORM)
            x_low = x_low.to(tl.float32)
            x_high = x_high.to(tl.float32)
            scale = 0.0
            gate_scale = 0.0
            if GROUP > 0:
                TILE_GROUPS: tl.constexpr = BLOCK_K * PACK // GROUP
                groups = start * PACK // GROUP + tl.arange(0, TILE_GROUPS)
                known = (groups < K // GROUP)[None, :]
                at = scale_ptr + rows[:, None] * (K // GROUP) + groups[None, :]
                scale = tl.load(at, mask=(rows < N)[:, None] & known, other=0.0).to(tl.float32)
                if GATED:
                    at = scale_ptr + gate_rows[:, None] * (K // GROUP) + groups[None, :]
                    gate_scale = tl.load(at, mask=(gate_rows < limit)[:, None] & known, other=0.0).to(tl.float32)
            total += _product(w, x_low, x_high, scale, BLOCK_N, BLOCK_K, QUANT, GROUP)
            if GATED:
                gate_total += _product(g, x_low, x_high, gate_scale, BLOCK_N, BLOCK_K, QUANT, GROUP)
        valid = rows < N
        if QUANT != 0 and GROUP == 0:
            total *= tl.load(scale_ptr + rows, mask=valid, other=0.0).to(tl.float32)
            if GATED:
                gate_total *= tl.load(scale_ptr + gate_rows, mask=valid, other=0.0).to(tl.float32)
        if HAS_BIAS:
            total += tl.load(bias_ptr + rows, mask=valid, other=0.0).to(tl.float32)
            if GATED:
                gate_total += tl.load(bias_ptr + gate_rows, mask=valid, other=0.0).to(tl.float32)
        out = activation(total, ACT)
        if GATED:
            out = out * gate_total
        if HAS_RESIDUAL:
            out += tl.load(residual_ptr + m * N + rows, mask=valid, other=0.0).to(tl.float32)
        tl.store(y_ptr + m * N + rows, out, mask=valid)
