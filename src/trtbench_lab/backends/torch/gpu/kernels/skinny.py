"""Matrix product for few tokens (up to 64) on the matrix units: norm → x Wᵀ + b → activation → residual in one kernel.

The weights stream through shared memory in tiles (the compiler's pipeline keeps `num_stages` of them in flight); the few
token rows are read again by every program, from the cache of the chip.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .common import activation, normalised, row_statistics


@triton.jit
def _weights(w_ptr, scale_ptr, rows, k, N, K: tl.constexpr, like: tl.constexpr, QUANT: tl.constexpr,
             EVEN: tl.constexpr):  # fmt: skip
    """(BLOCK_N, BLOCK_K) weights in the type of the computation, not yet scaled."""
    if QUANT == 2:
        pointers = w_ptr + rows[:, None].to(tl.int64) * (K // 2) + (k // 2)[None, :]
        if EVEN:
            pairs = tl.load(pointers)
        else:
            pairs = tl.load(pointers, mask=(rows < N)[:, None] & (k < K)[None, :], other=0)
        shift = ((1 - k % 2) * 4).to(tl.int8)
        w = (pairs << shift[None, :]).to(tl.int8) >> 4
    else:
        pointers = w_ptr + rows[:, None].to(tl.int64) * K + k[None, :]
        if EVEN:
            w = tl.load(pointers)
        else:
            w = tl.load(pointers, mask=(rows < N)[:, None] & (k < K)[None, :], other=0.0)
    return w.to(like)


@triton.jit
def skinny_kernel(
    x_ptr, w_ptr, scale_ptr, bias_ptr, norm_w_ptr, norm_b_ptr, residual_ptr, y_ptr,
    eps, M, N,
    K: tl.constexpr, K_PADDED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr, EVEN: tl.constexpr, NORM: tl.constexpr, ACT: tl.constexpr, GATED: tl.constexpr,
    QUANT: tl.constexpr, GROUP: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, PDL: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """y (M, N) = residual + act(norm(x) Wᵀ + b); see `matvec_kernel`. With GROUP, BLOCK_K equals it."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    gate_rows = rows + N
    limit = 2 * N if GATED else N
    tokens = tl.arange(0, BLOCK_M)
    live = (tokens < M)[:, None]
    x_rows = x_ptr + tokens[:, None] * K
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    if NORM != 0:
        sums = tl.zeros((BLOCK_M,), tl.float32)
        for start in range(0, K, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            x = tl.load(x_rows + k[None, :], mask=live & (k < K)[None, :], other=0.0).to(tl.float32)
            if NORM == 1:
                sums += tl.sum(x, axis=1)
            else:
                sums += tl.sum(x * x, axis=1)
        mean = tl.zeros((BLOCK_M,), tl.float32)
        if NORM == 1:
            mean = sums / K
            sums = tl.zeros((BLOCK_M,), tl.float32)
            for start in range(0, K, BLOCK_K):
                k = start + tl.arange(0, BLOCK_K)
                inside = live & (k < K)[None, :]
                x = tl.load(x_rows + k[None, :], mask=inside, other=0.0).to(tl.float32)
                centred = tl.where(inside, x - mean[:, None], 0.0)
                sums += tl.sum(centred * centred, axis=1)
        rstd = tl.rsqrt(sums / K + eps)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    gate_total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in tl.range(0, K, BLOCK_K, num_stages=STAGES):
        k = start + tl.arange(0, BLOCK_K)
        w = _weights(w_ptr, scale_ptr, rows, k, N, K, dtype, QUANT, EVEN)
        if EVEN:
            x = tl.load(x_rows + k[None, :], mask=live, other=0.0)
        else:
            x = tl.load(x_rows + k[None, :], mask=live & (k < K)[None, :], other=0.0)
        if NORM != 0:
            norm_w = tl.load(norm_w_ptr + k, mask=k < K, other=0.0)[None, :]
            norm_b = norm_w
            if NORM == 1:
                norm_b = tl.load(norm_b_ptr + k, mask=k < K, other=0.0)[None, :]
            x = normalised(x.to(tl.float32), mean[:, None], rstd[:, None], norm_w, norm_b, NORM)
        part = tl.dot(x, tl.trans(w), input_precision=PRECISION)
        if GROUP > 0:
            at = scale_ptr + rows * (K // GROUP) + start // GROUP
            part *= tl.load(at, mask=rows < N, other=0.0).to(tl.float32)[None, :]
        total += part
        if GATED:
            g = _weights(w_ptr, scale_ptr, gate_rows, k, limit, K, dtype, QUANT, EVEN)
            part = tl.dot(x, tl.trans(g), input_precision=PRECISION)
            if GROUP > 0:
                at = scale_ptr + gate_rows * (K // GROUP) + start // GROUP
                part *= tl.load(at, mask=rows < N, other=0.0).to(tl.float32)[None, :]
            gate_total += part
    valid = rows < N
    if QUANT != 0 and GROUP == 0:
        total *= tl.load(scale_ptr + rows, mask=valid, other=0.0).to(tl.float32)[None, :]
        if GATED:
            gate_total *= tl.load(scale_ptr + gate_rows, mask=valid, other=0.0).to(tl.float32)[None, :]
    if HAS_BIAS:
        total += tl.load(bias_ptr + rows, mask=valid, other=0.0).to(tl.float32)[None, :]
        if GATED:
            gate_total += tl.load(bias_ptr + gate_rows, mask=valid, other=0.0).to(tl.float32)[None, :]
    out = activation(total, ACT)
    if GATED:
        out = out * gate_total
    at_out = tokens[:, None] * N + rows[None, :]
    keep = live & valid[None, :]
    if HAS_RESIDUAL:
        out += tl.load(residual_ptr + at_out, mask=keep, other=0.0).to(tl.float32)
    tl.store(y_ptr + at_out, out, mask=keep)
