"""One row times a weight: bound by how fast the weight can be read, so every thread keeps wide loads in flight.

A program makes BLOCK_N outputs. Its threads lie along the input features: each reads 16 bytes of a weight row at once,
multiplies with its own part of x in float32, and the partial sums meet once, at the end. The next part of the weight
is requested before the present one is used; the first part even before the previous kernel of the stream has finished.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .common import (
    DENSE,
    FP8,
    INT4,
    activate,
    element_of,
    nibble_mantissa,
    prepare,
    row_statistics,
)


@triton.jit
def _weights(w_ptr, rows, cells, N: tl.constexpr, CELLS: tl.constexpr, BLOCK_N: tl.constexpr, STEP: tl.constexpr):
    """Load weight cells (elements, or int32 words of 4-bit elements) of some rows: (BLOCK_V, BLOCK_N, V)."""
    pointers = w_ptr + rows.to(tl.int64)[None, :, None] * CELLS + cells
    if N % BLOCK_N == 0 and CELLS % STEP == 0:
        return tl.load(pointers, eviction_policy="evict_first")
    mask = (rows < N)[None, :, None] & (cells < CELLS)
    return tl.load(pointers, mask=mask, other=0.0, eviction_policy="evict_first")


@triton.jit
def _scales(pointer, rows, groups, N: tl.constexpr, GROUPS: tl.constexpr):
    """Load what belongs to the groups of some rows, float32: (BLOCK_V, BLOCK_N)."""
    mask = (rows < N)[None, :] & (groups < GROUPS)[:, None]
    return tl.load(pointer + rows.to(tl.int64)[None, :] * GROUPS + groups[:, None], mask=mask, other=0).to(tl.float32)


@triton.jit
def _partial_sums(
    w,
    x_ptr,
    scale_ptr,
    zero_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    pre_scale_ptr,
    inverse_x_scale,
    mean,
    rstd,
    one,
    rows,
    units,
    cells,
    N: tl.constexpr,
    K: tl.constexpr,
    KIND: tl.constexpr,
    GROUP: tl.constexpr,
    NIBBLES: tl.constexpr,
    NORM: tl.constexpr,
    V: tl.constexpr,
):
    """Multiply loaded cells with their inputs: (BLOCK_V, BLOCK_N) sums over the V cells of each unit."""
    TYPE: tl.constexpr = x_ptr.dtype.element_ty
    CELL: tl.constexpr = 8 if KIND == INT4 else 1
    if KIND == INT4:
        # A weight q is met as 1 + (q + 8) / 16 (/ 256 for three of eight); what is above q comes off after.
        high = tl.zeros((w.shape[0], w.shape[1], V), tl.float32)
        low = high
        x_high = tl.zeros((w.shape[0], 1, V), tl.float32)
        x_low = x_high
        for i in tl.static_range(8):
            k = element_of(cells, i, NIBBLES)
            x = tl.load(x_ptr + k, mask=cells < K // 8, other=0.0)
            x = prepare(
                x,
                k,
                cells < K // 8,
                mean,
                rstd,
                norm_weight_ptr,
                norm_bias_ptr,
                pre_scale_ptr,
                inverse_x_scale,
                NORM,
                KIND,
                TYPE,
            ).to(tl.float32)
            if i % 2 == 1 and i != 7:
                low += nibble_mantissa(w, one, i) * x
                x_low += x
            else:
                high += nibble_mantissa(w, one, i) * x
                x_high += x
        total = tl.sum(16.0 * high + 256.0 * low, 2) - tl.sum(24.0 * x_high + 264.0 * x_low, 2)
        if zero_ptr is not None:
            zeros = _scales(zero_ptr, rows, units * (8 * V) // GROUP, N, K // GROUP)
            total -= zeros * tl.sum(x_high + x_low, 2)
    else:
        x = tl.load(x_ptr + cells, mask=cells < K, other=0.0)
        x = prepare(
            x,
            cells,
            cells < K,
            mean,
            rstd,
            norm_weight_ptr,
            norm_bias_ptr,
            pre_scale_ptr,
            inverse_x_scale,
            NORM,
            KIND,
            TYPE,
        ).to(tl.float32)
        total = tl.sum(w.to(tl.float32) * x, 2)
        if zero_ptr is not None:
            zeros = _scales(zero_ptr, rows, units * V // GROUP, N, K // GROUP)
            total -= zeros * tl.sum(x, 2)
    if GROUP != 0:
        total *= _scales(scale_ptr, rows, units * (V * CELL) // GROUP, N, K // GROUP)
    return total


@triton.jit(do_not_specialize=["rows"])
def matvec_kernel(
    x_ptr,
    w_ptr,
    w2_ptr,
    scale_ptr,
    scale2_ptr,
    zero_ptr,
    zero2_ptr,
    pre_scale_ptr,
    x_scale_ptr,
    bias_ptr,
    bias2_ptr,
    residual_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    rows,
    out_ptr,
    N: tl.constexpr,
    K: tl.constexpr,
    KIND: tl.constexpr,
    GROUP: tl.constexpr,
    NIBBLES: tl.constexpr,
    NORM: tl.constexpr,
    EPSILON: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    V: tl.constexpr,
    BLOCK_X: tl.constexpr,
    PDL: tl.constexpr,
):
    """``out = act(norm(x) Wᵀ + b) · (norm(x) W2ᵀ + b2) + residual`` for one row x (1, K); each part may be absent.

    `rows` is 1, and not known to be (see `nibble_mantissa`). BLOCK_V units of V cells are a step; a
    cell is one element of the weight, or one int32 word of eight 4-bit ones.
    """
    CELLS: tl.constexpr = K // 8 if KIND == INT4 else K
    STEP: tl.constexpr = BLOCK_V * V
    STEPS: tl.constexpr = (CELLS + STEP - 1) // STEP
    if PDL:
        gdc_launch_dependents()
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    units = tl.arange(0, BLOCK_V)
    # Of three dimensions, as the weight is, so that each thread holds the part of x that its weights meet; the outputs
    # in the middle, because the compiler gives threads to the first dimension before the second.
    cells = (units[:, None] * V + tl.arange(0, V)[None, :])[:, None, :]  # (BLOCK_V, 1, V)
    w = _weights(w_ptr, n, cells, N, CELLS, BLOCK_N, STEP)
    w2 = w
    if w2_ptr is not None:
        w2 = _weights(w2_ptr, n, cells, N, CELLS, BLOCK_N, STEP)
    if PDL:
        gdc_wait()
    mean, rstd = 0.0, 1.0
    if NORM != 0:
        mean, rstd = row_statistics(x_ptr, NORM, EPSILON, K, BLOCK_X)
    inverse_x_scale = 1.0
    if KIND == FP8:
        inverse_x_scale = 1.0 / tl.load(x_scale_ptr).to(tl.float32)
    total = tl.zeros((BLOCK_V, BLOCK_N), tl.float32)
    total2 = total
    for _ in range(1, STEPS):
        following = cells + STEP
        w_following = _weights(w_ptr, n, following, N, CELLS, BLOCK_N, STEP)
        w2_following = w_following
        if w2_ptr is not None:
            w2_following = _weights(w2_ptr, n, following, N, CELLS, BLOCK_N, STEP)
        total += _partial_sums(
            w,
            x_ptr,
            scale_ptr,
            zero_ptr,
            norm_weight_ptr,
            norm_bias_ptr,
            pre_scale_ptr,
            inverse_x_scale,
            mean,
            rstd,
            rows,
            n,
            units,
            cells,
            N,
            K,
            KIND,
            GROUP,
            NIBBLES,
            NORM,
            V,
        )
        if w2_ptr is not None:
            total2 += _partial_sums(
                w2,
                x_ptr,
                scale2_ptr,
                zero2_ptr,
                norm_weight_ptr,
                norm_bias_ptr,
                pre_scale_ptr,
                inverse_x_scale,
                mean,
                rstd,
                rows,
                n,
                units,
                cells,
                N,
                K,
                KIND,
                GROUP,
                NIBBLES,
                NORM,
                V,
            )
        w, w2, cells, units = w_following, w2_following, following, units + BLOCK_V
    total += _partial_sums(
        w,
        x_ptr,
        scale_ptr,
        zero_ptr,
        norm_weight_ptr,
        norm_bias_ptr,
        pre_scale_ptr,
        inverse_x_scale,
        mean,
        rstd,
        rows,
        n,
        units,
        cells,
        N,
        K,
        KIND,
        GROUP,
        NIBBLES,
        NORM,
        V,
    )
    y = _finish(tl.sum(total, 0), scale_ptr, bias_ptr, x_scale_ptr, n, N, KIND, GROUP)
    y = activate(y, ACTIVATION)
    if w2_ptr is not None:
        total2 += _partial_sums(
            w2,
            x_ptr,
            scale2_ptr,
            zero2_ptr,
            norm_weight_ptr,
            norm_bias_ptr,
            pre_scale_ptr,
            inverse_x_scale,
            mean,
            rstd,
            rows,
            n,
            units,
            cells,
            N,
            K,
            KIND,
            GROUP,
            NIBBLES,
            NORM,
            V,
        )
        y *= _finish(tl.sum(total2, 0), scale2_ptr, bias2_ptr, x_scale_ptr, n, N, KIND, GROUP)
    if residual_ptr is not None:
        y += tl.load(residual_ptr + n, mask=n < N, other=0.0).to(tl.float32)
    tl.store(out_ptr + n, y.to(out_ptr.dtype.element_ty), mask=n < N)


@triton.jit
def _finish(y, scale_ptr, bias_ptr, x_scale_ptr, n, N: tl.constexpr, KIND: tl.constexpr, GROUP: tl.constexpr):
    """Apply the scales that belong to whole outputs, then the bias; `scale_ptr` is (N,), of one element for FP8."""
    if KIND == FP8:
        y *= tl.load(x_scale_ptr).to(tl.float32) * tl.load(scale_ptr).to(tl.float32)
    elif KIND != DENSE and GROUP == 0:
        y *= tl.load(scale_ptr + n, mask=n < N, other=0.0).to(tl.float32)
    if bias_ptr is not None:
        y += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)
    return y
