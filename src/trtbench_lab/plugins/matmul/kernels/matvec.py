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
    INT8,
    activate,
    byte,
    byte_mantissa,
    byte_offset,
    element_of,
    nibble,
    nibble_mantissa,
    nibble_offset,
    normalized,
    prepare,
    scaled,
    statistics,
)


@triton.jit
def _weights(w_ptr, rows, cells, N: tl.constexpr, CELLS: tl.constexpr, BLOCK_N: tl.constexpr, STEP: tl.constexpr):
    """Load weight cells of some rows: (BLOCK_V, BLOCK_N, V)."""
    pointers = w_ptr + rows.to(tl.int64)[None, :, None] * CELLS + cells
    if N % BLOCK_N == 0 and CELLS % STEP == 0:
        return tl.load(pointers, eviction_policy="evict_first")
    mask = (rows < N)[None, :, None] & (cells < CELLS)
    return tl.load(pointers, mask=mask, other=0.0, eviction_policy="evict_first")


@triton.jit
def _of_groups(pointer, rows, units, N: tl.constexpr, K: tl.constexpr, GROUP: tl.constexpr, UNIT: tl.constexpr):
    """Load what belongs to the groups of some units, float32: (BLOCK_V, BLOCK_N); 1.0 where there are no groups."""
    if GROUP == 0:
        found = tl.full((units.shape[0], 1), 1.0, tl.float32)
    else:
        GROUPS: tl.constexpr = K // GROUP
        groups = units * UNIT // GROUP
        mask = (rows < N)[None, :] & (groups < GROUPS)[:, None]
        at = rows.to(tl.int64)[None, :] * GROUPS + groups[:, None]
        found = tl.load(pointer + at, mask=mask, other=0).to(tl.float32)
    return found


@triton.jit
def _of_outputs(pointer, n, N: tl.constexpr):
    """Load one number an output, float32; 0.0 where there are none."""
    if pointer is None:
        found = tl.zeros((n.shape[0],), tl.float32)
    else:
        found = tl.load(pointer + n, mask=n < N, other=0.0).to(tl.float32)
    return found


@triton.jit
def _products_of_nibbles(
    w,
    scales,
    zeros,
    x_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    pre_scale_ptr,
    mean,
    rstd,
    one,
    cells,
    units,
    K: tl.constexpr,
    HAS_ZERO: tl.constexpr,
    NIBBLES: tl.constexpr,
    NORM: tl.constexpr,
    V: tl.constexpr,
):
    """Multiply words of 4-bit elements with their inputs: (BLOCK_V, BLOCK_N) sums over the V words of each unit.

    A weight q is met as q + 8 plus an offset of its place in the word; what is above q comes off after each unit, while
    the sums are small: the largest offset, 2¹⁵, then costs 2⁻⁹ of an input, where a weight counts 5 or so. Inputs in
    float32 are worth exact weights.
    """
    TYPE: tl.constexpr = x_ptr.dtype.element_ty
    sums = tl.zeros((w.shape[0], w.shape[1], V), tl.float32)
    x_sums = tl.zeros((w.shape[0], 1, V), tl.float32)
    above = x_sums
    inside = cells < K // 8
    PER_BLOCK: tl.constexpr = 1 if NIBBLES < V else NIBBLES // V
    for i in tl.static_range(4):
        if NIBBLES == 0:
            k0, k4 = element_of(cells, i, 0), element_of(cells, i + 4, 0)
            x0 = tl.load(x_ptr + k0, mask=inside, other=0.0)
            x4 = tl.load(x_ptr + k4, mask=inside, other=0.0)
            x0 = prepare(x0, k0, inside, mean, rstd, norm_weight_ptr, norm_bias_ptr, pre_scale_ptr, 1.0, NORM, 2, TYPE)
            x4 = prepare(x4, k4, inside, mean, rstd, norm_weight_ptr, norm_bias_ptr, pre_scale_ptr, 1.0, NORM, 2, TYPE)
            x0, x4 = x0.to(tl.float32), x4.to(tl.float32)
        else:  # both of each word lie side by side
            # Written so that the compiler sees the alignment: a thread's inputs are one load of 16 bytes.
            unit = units[:, None, None]
            start = (unit // PER_BLOCK) * (8 * NIBBLES) + i * (2 * NIBBLES) + (unit % PER_BLOCK) * (2 * V)
            k = start + tl.arange(0, 2 * V)[None, None, :]
            there = unit * (8 * V) < K
            x = tl.load(x_ptr + k, mask=there, other=0.0)
            x = prepare(x, k, there, mean, rstd, norm_weight_ptr, norm_bias_ptr, pre_scale_ptr, 1.0, NORM, 2, TYPE)
            x0, x4 = tl.split(tl.reshape(x.to(tl.float32), (w.shape[0], 1, V, 2)))
        x_sums += x0 + x4
        if TYPE == tl.float32:
            sums += nibble(w, i) * x0
            sums += nibble(w, i + 4) * x4
        else:
            sums += nibble_mantissa(w, one, i) * x0
            sums += nibble_mantissa(w, one, i + 4) * x4
            above += (nibble_offset(i) + 8.0) * x0 + (nibble_offset(i + 4) + 8.0) * x4
    total = tl.sum(sums - above, 2)
    if HAS_ZERO:
        total -= zeros * tl.sum(x_sums, 2)
    return total * scales


@triton.jit
def _products(w, scales, zeros, x, one, EXACT: tl.constexpr, HAS_ZERO: tl.constexpr, BLOCK_V: tl.constexpr):
    """Multiply cells with the inputs x (BLOCK_V, 1, UNIT), float32: (BLOCK_V, BLOCK_N) sums over each unit.

    EXACT: inputs were float32 and are worth exact weights.
    """
    if w.dtype == tl.int32:  # word j holds elements 4 j … 4 j + 3
        even, odd = tl.split(tl.reshape(x, (BLOCK_V, 1, 2, 2, 2)))
        x0, x2 = tl.split(even)
        x1, x3 = tl.split(odd)
        if EXACT:
            sums = byte(w, 0) * x0 + byte(w, 1) * x1 + byte(w, 2) * x2 + byte(w, 3) * x3
            total = tl.sum(sums, 2)
        else:
            # Each is met as q + 128 and the offset of its place. The largest, 2¹⁶, costs 2⁻⁸ of an input in the sum of
            # a word, where a weight counts 74 or so.
            sums = byte_mantissa(w, one, 0) * x0 + byte_mantissa(w, one, 1) * x1
            sums += byte_mantissa(w, one, 2) * x2 + byte_mantissa(w, one, 3) * x3
            above = (byte_offset(0) + 128.0) * x0 + (byte_offset(1) + 128.0) * x1
            above += (byte_offset(2) + 128.0) * x2 + (byte_offset(3) + 128.0) * x3
            total = tl.sum(sums - above, 2)
    else:
        total = tl.sum(w.to(tl.float32) * x, 2)
    if HAS_ZERO:
        total -= zeros * tl.sum(x, 2)
    return total * scales


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

    `rows` is 1, and not known to be (see `nibble_mantissa`). BLOCK_V units of V cells are a step; a cell is one element
    of the weight, or one int32 word of eight 4-bit or four 8-bit ones.
    """
    TYPE: tl.constexpr = x_ptr.dtype.element_ty
    CELL: tl.constexpr = 8 if KIND == INT4 else (4 if KIND == INT8 and w_ptr.dtype.element_ty == tl.int32 else 1)
    CELLS: tl.constexpr = K // CELL
    UNIT: tl.constexpr = V * CELL
    STEP: tl.constexpr = BLOCK_V * V
    STEPS: tl.constexpr = (CELLS + STEP - 1) // STEP
    EXACT: tl.constexpr = TYPE == tl.float32
    HAS_ZERO: tl.constexpr = zero_ptr is not None
    GATED: tl.constexpr = w2_ptr is not None
    if PDL:
        gdc_launch_dependents()
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    units = tl.arange(0, BLOCK_V)
    # Of three dimensions, as the weight is, so that each thread holds the part of x that its weights meet; the outputs
    # in the middle, because the compiler gives threads to the first dimension before the second.
    cells = (units[:, None] * V + tl.arange(0, V)[None, :])[:, None, :]  # (BLOCK_V, 1, V)
    k = (units[:, None] * UNIT + tl.arange(0, UNIT)[None, :])[:, None, :]  # (BLOCK_V, 1, UNIT)
    w = _weights(w_ptr, n, cells, N, CELLS, BLOCK_N, STEP)
    scales, zeros = _of_groups(scale_ptr, n, units, N, K, GROUP, UNIT), 0.0
    if HAS_ZERO:
        zeros = _of_groups(zero_ptr, n, units, N, K, GROUP, UNIT)
    w2, scales2, zeros2 = w, scales, zeros
    if GATED:
        w2 = _weights(w2_ptr, n, cells, N, CELLS, BLOCK_N, STEP)
        scales2 = _of_groups(scale2_ptr, n, units, N, K, GROUP, UNIT)
        if HAS_ZERO:
            zeros2 = _of_groups(zero2_ptr, n, units, N, K, GROUP, UNIT)
    # A norm over inputs that are all in registers takes its own parameters early too.
    WHOLE: tl.constexpr = NORM != 0 and STEPS == 1 and KIND != INT4
    norm_weight, norm_bias = 1.0, 0.0
    if WHOLE:
        norm_weight = tl.load(norm_weight_ptr + k, mask=k < K, other=0.0)
        if norm_bias_ptr is not None:
            norm_bias = tl.load(norm_bias_ptr + k, mask=k < K, other=0.0).to(tl.float32)
    bias = _of_outputs(bias_ptr, n, N)
    bias2 = _of_outputs(bias2_ptr, n, N)
    if PDL:
        gdc_wait()
    residual = _of_outputs(residual_ptr, n, N)
    mean, rstd = 0.0, 1.0
    if NORM != 0 and not WHOLE:
        row = tl.arange(0, BLOCK_X)
        mean, rstd = statistics(tl.load(x_ptr + row, mask=row < K, other=0.0).to(tl.float32), BLOCK_X, NORM, EPSILON, K)
    inverse_x_scale = 1.0
    if KIND == FP8:
        inverse_x_scale = 1.0 / tl.load(x_scale_ptr).to(tl.float32)
    total = tl.zeros((BLOCK_V, BLOCK_N), tl.float32)
    total2 = total
    for step in range(STEPS):
        w_now, w2_now, scales_now, scales2_now, zeros_now, zeros2_now = w, w2, scales, scales2, zeros, zeros2
        if STEPS > 1:  # request what follows before using what is there; beyond the end nothing is loaded
            after = units + (step + 1) * BLOCK_V
            cells_after = cells + (step + 1) * STEP
            w = _following(w_ptr, n, cells_after, N, CELLS)
            scales = _of_groups(scale_ptr, n, after, N, K, GROUP, UNIT)
            if HAS_ZERO:
                zeros = _of_groups(zero_ptr, n, after, N, K, GROUP, UNIT)
            if GATED:
                w2 = _following(w2_ptr, n, cells_after, N, CELLS)
                scales2 = _of_groups(scale2_ptr, n, after, N, K, GROUP, UNIT)
                if HAS_ZERO:
                    zeros2 = _of_groups(zero2_ptr, n, after, N, K, GROUP, UNIT)
        if KIND == INT4:
            total += _products_of_nibbles(
                w_now,
                scales_now,
                zeros_now,
                x_ptr,
                norm_weight_ptr,
                norm_bias_ptr,
                pre_scale_ptr,
                mean,
                rstd,
                rows,
                cells + step * STEP,
                units + step * BLOCK_V,
                K,
                HAS_ZERO,
                NIBBLES,
                NORM,
                V,
            )
            if GATED:
                total2 += _products_of_nibbles(
                    w2_now,
                    scales2_now,
                    zeros2_now,
                    x_ptr,
                    norm_weight_ptr,
                    norm_bias_ptr,
                    pre_scale_ptr,
                    mean,
                    rstd,
                    rows,
                    cells + step * STEP,
                    units + step * BLOCK_V,
                    K,
                    HAS_ZERO,
                    NIBBLES,
                    NORM,
                    V,
                )
        else:
            k_now = k + step * (BLOCK_V * UNIT)
            x = tl.load(x_ptr + k_now, mask=k_now < K, other=0.0)
            if WHOLE:
                mean, rstd = statistics(x.to(tl.float32), BLOCK_V * UNIT, NORM, EPSILON, K)
                x = normalized(x, mean, rstd, norm_weight, norm_bias, NORM, TYPE)
                x = scaled(x, k_now, k_now < K, pre_scale_ptr, inverse_x_scale, KIND, TYPE)
            else:
                x = prepare(
                    x,
                    k_now,
                    k_now < K,
                    mean,
                    rstd,
                    norm_weight_ptr,
                    norm_bias_ptr,
                    pre_scale_ptr,
                    inverse_x_scale,
                    NORM,
                    KIND,
                    TYPE,
                )
            x = x.to(tl.float32)
            total += _products(w_now, scales_now, zeros_now, x, rows, EXACT, HAS_ZERO, BLOCK_V)
            if GATED:
                total2 += _products(w2_now, scales2_now, zeros2_now, x, rows, EXACT, HAS_ZERO, BLOCK_V)
    y = _finish(tl.sum(total, 0), scale_ptr, bias, x_scale_ptr, n, N, KIND, GROUP)
    y = activate(y, ACTIVATION)
    if GATED:
        y *= _finish(tl.sum(total2, 0), scale2_ptr, bias2, x_scale_ptr, n, N, KIND, GROUP)
    tl.store(out_ptr + n, (y + residual).to(out_ptr.dtype.element_ty), mask=n < N)


@triton.jit
def _following(w_ptr, rows, cells, N: tl.constexpr, CELLS: tl.constexpr):
    mask = (rows < N)[None, :, None] & (cells < CELLS)
    pointers = w_ptr + rows.to(tl.int64)[None, :, None] * CELLS + cells
    return tl.load(pointers, mask=mask, other=0.0, eviction_policy="evict_first")


@triton.jit
def _finish(y, scale_ptr, bias, x_scale_ptr, n, N: tl.constexpr, KIND: tl.constexpr, GROUP: tl.constexpr):
    """Apply the scales that belong to whole outputs, then the bias; `scale_ptr` is (N,), of one element for FP8."""
    if KIND == FP8:
        y *= tl.load(x_scale_ptr).to(tl.float32) * tl.load(scale_ptr).to(tl.float32)
    elif KIND != DENSE and GROUP == 0:
        y *= tl.load(scale_ptr + n, mask=n < N, other=0.0).to(tl.float32)
    return y + bias
