"""A few rows (up to 16 or so) times a small weight, on the tensor cores.

A program makes BLOCK_N outputs over all input features; its warps each take a slice of them and add up at the end, and
the first weights are requested before the previous kernel of the stream has finished.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .block import pair_weights, rows_statistics, store_block, with_group
from .common import FP8, INT4, INT8_INT8, element_of, nibble_pairs, pair_excess, prepare


@triton.jit
def _slice_block(w_ptr, n, cells, N: tl.constexpr, CELLS: tl.constexpr, BLOCK_N: tl.constexpr, STEP: tl.constexpr):
    """Load weight cells: (SLICES, BLOCK_N, BLOCK_C)."""
    pointers = w_ptr + n.to(tl.int64)[None, :, None] * CELLS + cells
    if N % BLOCK_N == 0 and CELLS % STEP == 0:
        return tl.load(pointers, eviction_policy="evict_first")
    return tl.load(pointers, mask=(n < N)[None, :, None] & (cells < CELLS), other=0.0, eviction_policy="evict_first")


@triton.jit
def _slice_following(w_ptr, n, cells, N: tl.constexpr, CELLS: tl.constexpr):
    pointers = w_ptr + n.to(tl.int64)[None, :, None] * CELLS + cells
    return tl.load(pointers, mask=(n < N)[None, :, None] & (cells < CELLS), other=0.0, eviction_policy="evict_first")


@triton.jit
def _slice_product(
    acc,
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
    m,
    inside_m,
    n,
    cells,
    first,
    N: tl.constexpr,
    K: tl.constexpr,
    KIND: tl.constexpr,
    GROUP: tl.constexpr,
    NIBBLES: tl.constexpr,
    NORM: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Add the products of loaded cells: acc (SLICES, BLOCK_N, BLOCK_M), the weight on the tensor cores' long side.

    `first` (SLICES,) is the first cell of each slice.
    """
    SLICES: tl.constexpr = w.shape[0]
    BLOCK_N: tl.constexpr = w.shape[1]
    rows = m.to(tl.int64)[None, :, None] * K
    inside_n = (n < N)[None, :, None]
    if KIND == INT4:
        # The scales of a group can follow the product where a slice never leaves the group.
        AFTER: tl.constexpr = zero_ptr is None and GROUP % (8 * BLOCK_C) == 0 and TYPE != tl.float32
        GROUPS: tl.constexpr = 0 if GROUP == 0 else K // GROUP
        PER_BLOCK: tl.constexpr = 1 if NIBBLES < BLOCK_C else NIBBLES // BLOCK_C
        column = tl.arange(0, 2 * BLOCK_C)
        words = (first[:, None] + (column // 2)[None, :])[:, None, :]  # (SLICES, 1, 2 · BLOCK_C)
        part = acc
        if AFTER:
            part = tl.zeros_like(acc)
        for i in tl.static_range(4):
            if NIBBLES == 0:
                k = 8 * words + i + 4 * (column % 2)[None, None, :]
            elif BLOCK_C <= NIBBLES:  # written so that the compiler sees how the inputs are aligned
                unit = (first // BLOCK_C)[:, None, None]
                start = (unit // PER_BLOCK) * (8 * NIBBLES) + i * (2 * NIBBLES) + (unit % PER_BLOCK) * (2 * BLOCK_C)
                k = start + column[None, None, :]
            else:
                k = element_of(words, i, NIBBLES) + (column % 2)[None, None, :]
            x = tl.load(x_ptr + rows + k, mask=(k < K) & inside_m[None, :, None], other=0.0)
            x = prepare(
                x,
                k,
                k < K,
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
            if AFTER:
                low, high = nibble_pairs(w, one, i, TYPE)
            else:
                inside = inside_n & (cells < K // 8)
                group = 0 if GROUP == 0 else cells * 8 // GROUP
                low, high = pair_weights(w, i, scale_ptr, zero_ptr, n[None, :, None], group, inside, GROUPS, TYPE)
            weights = tl.reshape(tl.join(low, high), (SLICES, BLOCK_N, 2 * BLOCK_C))
            turned = tl.permute(x, (0, 2, 1))
            part = tl.dot(weights, turned, part, input_precision="ieee")
            if AFTER:
                excess = tl.full((SLICES, BLOCK_N, 2 * BLOCK_C), -pair_excess(TYPE), tl.float32).to(TYPE)
                part = tl.dot(excess, turned, part, input_precision="ieee")
        if AFTER:
            if GROUP == 0:
                acc += part
            else:
                at = n.to(tl.int64)[None, :] * GROUPS + (first * 8 // GROUP)[:, None]
                mask = (n < N)[None, :] & (first < K // 8)[:, None]
                acc += part * tl.load(scale_ptr + at, mask=mask, other=0.0).to(tl.float32)[:, :, None]
        else:
            acc = part
    else:
        inside_k = cells < K
        x = tl.load(x_ptr + rows + cells, mask=inside_k & inside_m[None, :, None], other=0.0)
        if KIND == INT8_INT8:
            acc = tl.dot(w, tl.permute(x, (0, 2, 1)), acc, out_dtype=tl.int32)
        else:
            x = prepare(
                x,
                cells,
                inside_k,
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
            if KIND != FP8:
                w = w.to(TYPE)
            if GROUP != 0:
                inside = inside_n & inside_k
                w = with_group(w, scale_ptr, zero_ptr, n[None, :, None], cells // GROUP, inside, K // GROUP, TYPE)
            acc = tl.dot(w, tl.permute(x, (0, 2, 1)), acc, input_precision="ieee")
    return acc


@triton.jit(do_not_specialize=["rows"])
def slice_kernel(
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
    ONE_SCALE: tl.constexpr,
    ROW_SCALES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    SLICES: tl.constexpr,
    BLOCK_X: tl.constexpr,
    PDL: tl.constexpr,
):
    """``out = act(norm(x) Wᵀ + b) · (norm(x) W2ᵀ + b2) + residual`` for x (rows, K); each part may be absent.

    Program (i, j) makes BLOCK_N outputs of BLOCK_M rows. A cell is one element of the weight, or one int32 word of
    eight 4-bit ones; each of SLICES warps takes BLOCK_C cells a step.
    """
    CELLS: tl.constexpr = K // 8 if KIND == INT4 else K
    STEP: tl.constexpr = SLICES * BLOCK_C
    STEPS: tl.constexpr = (CELLS + STEP - 1) // STEP
    TYPE: tl.constexpr = x_ptr.dtype.element_ty
    ACC: tl.constexpr = tl.int32 if KIND == INT8_INT8 else tl.float32
    if PDL:
        gdc_launch_dependents()
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside_m = m < rows
    one = tl.minimum(rows, 1)  # not known to be 1, see `nibble_mantissa`
    first = tl.arange(0, SLICES) * BLOCK_C
    cells = (first[:, None] + tl.arange(0, BLOCK_C)[None, :])[:, None, :]
    w = _slice_block(w_ptr, n, cells, N, CELLS, BLOCK_N, STEP)
    w2 = w
    if w2_ptr is not None:
        w2 = _slice_block(w2_ptr, n, cells, N, CELLS, BLOCK_N, STEP)
    if PDL:
        gdc_wait()
    mean, rstd = 0.0, 1.0
    if NORM != 0:
        row_mean, row_rstd = rows_statistics(x_ptr, m, inside_m, NORM, EPSILON, K, BLOCK_X)
        mean, rstd = row_mean[None, :, None], row_rstd[None, :, None]
    x_scale, inverse_x_scale = 1.0, 1.0
    if KIND == FP8 or KIND == INT8_INT8:
        if ROW_SCALES:
            x_scale = tl.load(x_scale_ptr + m, mask=inside_m, other=1.0).to(tl.float32)[:, None]
        else:
            x_scale = tl.load(x_scale_ptr).to(tl.float32)
            inverse_x_scale = 1.0 / x_scale
    acc = tl.zeros((SLICES, BLOCK_N, BLOCK_M), ACC)
    acc2 = acc
    for step in range(STEPS):
        w_now, w2_now = w, w2
        if STEPS > 1:  # request what follows before using what is there; beyond the end nothing is loaded
            w = _slice_following(w_ptr, n, cells + (step + 1) * STEP, N, CELLS)
            if w2_ptr is not None:
                w2 = _slice_following(w2_ptr, n, cells + (step + 1) * STEP, N, CELLS)
        acc = _slice_product(
            acc,
            w_now,
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
            m,
            inside_m,
            n,
            cells + step * STEP,
            first + step * STEP,
            N,
            K,
            KIND,
            GROUP,
            NIBBLES,
            NORM,
            TYPE,
            BLOCK_C,
        )
        if w2_ptr is not None:
            acc2 = _slice_product(
                acc2,
                w2_now,
                x_ptr,
                scale2_ptr,
                zero2_ptr,
                norm_weight_ptr,
                norm_bias_ptr,
                pre_scale_ptr,
                inverse_x_scale,
                mean,
                rstd,
                one,
                m,
                inside_m,
                n,
                cells + step * STEP,
                first + step * STEP,
                N,
                K,
                KIND,
                GROUP,
                NIBBLES,
                NORM,
                TYPE,
                BLOCK_C,
            )
    sums = tl.trans(tl.sum(acc, 0))
    sums2 = sums
    if w2_ptr is not None:
        sums2 = tl.trans(tl.sum(acc2, 0))
    store_block(
        sums,
        sums2,
        w2_ptr,
        scale_ptr,
        scale2_ptr,
        bias_ptr,
        bias2_ptr,
        residual_ptr,
        x_scale,
        m,
        inside_m,
        n,
        out_ptr,
        N,
        KIND,
        GROUP,
        ONE_SCALE,
        ACTIVATION,
    )
