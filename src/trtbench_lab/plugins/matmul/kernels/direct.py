"""Up to eight rows times a weight, on the tensor cores, whose operand is loaded as it lies in registers.

A program makes BLOCK_N outputs over all input features. Each of its warps takes a slice of them: a thread reads 16
bytes of a weight row at once, and these bytes are its part of the tensor cores' operand, because the order in which
features are added up is free. So weights pass through no shared memory, two 8-bit floats are converted and two 4-bit
integers made numbers by one operation. The first weights are requested before the previous kernel of the stream has
ended.

Written in Gluon, Triton's language with explicit layouts.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .common import DENSE, FP8, INT4, LAYER_NORM, activate, normalized, pair_excess, scaled
from .operands import from_row, numbers, pairs_of_nibbles, rounded_to_fp8, sums_layout


@gluon.jit
def _cells(w_ptr, n, cells, N: gl.constexpr, CELLS: gl.constexpr, BLOCK_N: gl.constexpr, STEP: gl.constexpr):
    """Load weight cells: (SLICES, BLOCK_N, BLOCK_C); zeros beyond the ends."""
    pointers = w_ptr + n.to(gl.int64) * CELLS + cells
    if N % BLOCK_N == 0 and CELLS % STEP == 0:
        return gl.load(pointers, eviction_policy="evict_first")
    else:
        return gl.load(pointers, mask=(n < N) & (cells < CELLS), other=0.0, eviction_policy="evict_first")


@gluon.jit
def _scales(scale_ptr, n, first, N: gl.constexpr, K: gl.constexpr, GROUP: gl.constexpr):
    """Load the scales of a step's groups: (SLICES, BLOCK_N, 1), float32; `first` is each slice's first word."""
    at = n.to(gl.int64) * (K // GROUP) + first * 8 // GROUP
    return gl.load(scale_ptr + at, mask=(n < N) & (first < K // 8), other=0.0).to(gl.float32)


@gluon.jit
def _statistics(x_ptr, rows, NORM: gl.constexpr, EPSILON: gl.constexpr, K: gl.constexpr, K_PADDED: gl.constexpr,
                ROWS: gl.constexpr, SLICES: gl.constexpr, X: gl.constexpr):  # fmt: skip
    """Mean and 1 / deviation of the rows of x: both (1, 1, 8). One pass of loads."""
    WIDE: gl.constexpr = gl.BlockedLayout([1, 4], [1, 32], [1, SLICES], [1, 0])
    row = gl.arange(0, ROWS, layout=gl.SliceLayout(1, WIDE))
    k = gl.arange(0, K_PADDED, layout=gl.SliceLayout(0, WIDE))
    inside = (row < rows)[:, None] & (k < K)[None, :]
    x = gl.load(x_ptr + row.to(gl.int64)[:, None] * K + k[None, :], mask=inside, other=0.0).to(gl.float32)
    mean = gl.zeros([ROWS], gl.float32, layout=gl.SliceLayout(1, WIDE))
    if NORM == LAYER_NORM:
        mean = gl.sum(x, 1) / K
        x = gl.where(inside, x - mean[:, None], 0.0)
    rstd = gl.rsqrt(gl.sum(x * x, 1) / K + EPSILON)
    OF_ROWS: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(0, X))
    mean = gl.expand_dims(gl.expand_dims(gl.convert_layout(mean, OF_ROWS), 0), 0)
    rstd = gl.expand_dims(gl.expand_dims(gl.convert_layout(rstd, OF_ROWS), 0), 0)
    return mean, rstd


@gluon.jit
def _prepared(x, k, mean, rstd, norm_weight_ptr, norm_bias_ptr, pre_scale_ptr, inverse_x_scale,
              K: gl.constexpr, KIND: gl.constexpr, NORM: gl.constexpr, TYPE: gl.constexpr):  # fmt: skip
    """Turn loaded inputs into what is multiplied; FP8 as float16, which holds every one of them."""
    if NORM != 0:
        weight = gl.load(norm_weight_ptr + k, mask=k < K, other=0.0)
        bias = 0.0
        if norm_bias_ptr is not None:
            bias = gl.load(norm_bias_ptr + k, mask=k < K, other=0.0).to(gl.float32)
        x = normalized(x, mean, rstd, weight, bias, NORM, TYPE)
    x = scaled(x, k, k < K, pre_scale_ptr, 1.0, DENSE, TYPE)
    if KIND == FP8:
        x = rounded_to_fp8(x.to(gl.float32) * inverse_x_scale)
    return x


@gluon.jit
def _inputs(x_ptr, norm_weight_ptr, norm_bias_ptr, pre_scale_ptr, inverse_x_scale, mean, rstd, m, k, rows,
            K: gl.constexpr, KIND: gl.constexpr, NORM: gl.constexpr, TYPE: gl.constexpr):  # fmt: skip
    """Load inputs of several rows and prepare them: (SLICES, features, 8)."""
    x = gl.load(x_ptr + m.to(gl.int64) * K + k, mask=(m < rows) & (k < K), other=0.0)
    return _prepared(
        x, k, mean, rstd, norm_weight_ptr, norm_bias_ptr, pre_scale_ptr, inverse_x_scale, K, KIND, NORM, TYPE
    )


@gluon.jit
def _shared_row(x_ptr, norm_weight_ptr, norm_bias_ptr, pre_scale_ptr, inverse_x_scale,
                K: gl.constexpr, K_PADDED: gl.constexpr, KIND: gl.constexpr, NORM: gl.constexpr, EPSILON: gl.constexpr,
                TYPE: gl.constexpr, SLICES: gl.constexpr, PARTS: gl.constexpr, PART: gl.constexpr):  # fmt: skip
    """Prepare the only row once for the whole program, in shared memory: (steps · PARTS, SLICES, PART)."""
    WIDE: gl.constexpr = gl.BlockedLayout([8], [32], [SLICES], [0])
    k = gl.arange(0, K_PADDED, layout=WIDE)
    x = gl.load(x_ptr + k, mask=k < K, other=0.0)
    mean, rstd = 0.0, 1.0
    if NORM != 0:
        wide = x.to(gl.float32)
        if NORM == LAYER_NORM:
            mean = gl.sum(wide, 0) / K
            wide = gl.where(k < K, wide - mean, 0.0)
        rstd = gl.rsqrt(gl.sum(wide * wide, 0) / K + EPSILON)
    x = _prepared(x, k, mean, rstd, norm_weight_ptr, norm_bias_ptr, pre_scale_ptr, inverse_x_scale, K, KIND, NORM, TYPE)
    STEPS: gl.constexpr = K_PADDED // (SLICES * PARTS * PART)
    x = gl.permute(gl.reshape(x, [STEPS, SLICES, PARTS, PART]), [0, 2, 1, 3])
    x = gl.reshape(x, [STEPS * PARTS, SLICES, PART])
    row = gl.allocate_shared_memory(x.dtype, x.shape, gl.SwizzledSharedLayout(1, 1, 1, [2, 1, 0]), x)
    gl.thread_barrier()  # here, or the compiler places one into the loop that reads
    return row._reinterpret(x.dtype, x.shape, gl.SwizzledSharedLayout(1, 1, 1, [1, 0]))  # parts of it, by number


@gluon.jit
def _outputs(sums, scale_ptr, bias_ptr, x_scale, n, N: gl.constexpr, KIND: gl.constexpr, GROUP: gl.constexpr,
             ONE_SCALE: gl.constexpr):  # fmt: skip
    """Apply the scales of whole outputs, then the bias: (BLOCK_N, 8) float32; n (BLOCK_N,)."""
    y = sums * x_scale
    if scale_ptr is not None and GROUP == 0:
        if ONE_SCALE:
            y *= gl.load(scale_ptr).to(gl.float32)
        else:
            y *= gl.load(scale_ptr + n, mask=n < N, other=0.0).to(gl.float32)[:, None]
    if bias_ptr is not None:
        y += gl.load(bias_ptr + n, mask=n < N, other=0.0).to(gl.float32)[:, None]
    return y


@gluon.jit(do_not_specialize=["rows"])
def direct_kernel(
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
    N: gl.constexpr,
    K: gl.constexpr,
    KIND: gl.constexpr,
    GROUP: gl.constexpr,
    NIBBLES: gl.constexpr,
    NORM: gl.constexpr,
    EPSILON: gl.constexpr,
    ACTIVATION: gl.constexpr,
    ONE_SCALE: gl.constexpr,
    ROWS: gl.constexpr,
    BLOCK_N: gl.constexpr,
    BLOCK_C: gl.constexpr,
    SLICES: gl.constexpr,
    K_PADDED: gl.constexpr,
    PDL: gl.constexpr,
):
    """``out = act(norm(x) Wᵀ + b) · (norm(x) W2ᵀ + b2) + residual`` for x (rows ≤ 8, K); each part may be absent.

    A cell is one element of the weight, or one int32 word: of four FP8 ones, or of eight 4-bit ones in blocks of
    NIBBLES = BLOCK_C words. Each of SLICES warps takes BLOCK_C cells a step. ROWS is 1, or 8 for more rows. There are
    no zero points.
    """
    CELL: gl.constexpr = 8 if KIND == INT4 else (4 if KIND == FP8 else 1)
    CELLS: gl.constexpr = K // CELL
    STEP: gl.constexpr = SLICES * BLOCK_C
    STEPS: gl.constexpr = (CELLS + STEP - 1) // STEP
    TYPE: gl.constexpr = x_ptr.dtype.element_ty
    GATED: gl.constexpr = w2_ptr is not None
    SUMS: gl.constexpr = sums_layout(SLICES)
    # What a thread loads at once, 16 bytes, is its part of the operand; 4-bit words become eight numbers each later.
    WIDE: gl.constexpr = 128 // w_ptr.dtype.element_ty.primitive_bitwidth
    WORDS: gl.constexpr = gl.DotOperandLayout(0, SUMS, WIDE)
    X_WIDE: gl.constexpr = 8 if KIND == INT4 else WIDE * CELL
    W: gl.constexpr = gl.DotOperandLayout(0, SUMS, X_WIDE)
    X: gl.constexpr = gl.DotOperandLayout(1, SUMS, X_WIDE)
    if PDL:
        gdc_launch_dependents()
    first_output = gl.program_id(0) * BLOCK_N
    slice_w = gl.arange(0, SLICES, layout=gl.SliceLayout(1, gl.SliceLayout(2, WORDS)))[:, None, None]
    n_w = first_output + gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, gl.SliceLayout(2, WORDS)))[None, :, None]
    cell_w = gl.arange(0, BLOCK_C, layout=gl.SliceLayout(0, gl.SliceLayout(1, WORDS)))[None, None, :]
    cells = slice_w * BLOCK_C + cell_w
    n_sums = first_output + gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, gl.SliceLayout(2, SUMS)))[None, :, None]
    first = gl.arange(0, SLICES, layout=gl.SliceLayout(1, gl.SliceLayout(2, SUMS)))[:, None, None] * BLOCK_C
    w = _cells(w_ptr, n_w, cells, N, CELLS, BLOCK_N, STEP)
    w2 = w
    scales, scales2 = 1.0, 1.0
    if GATED:
        w2 = _cells(w2_ptr, n_w, cells, N, CELLS, BLOCK_N, STEP)
    if GROUP != 0:
        scales = _scales(scale_ptr, n_sums, first, N, K, GROUP)
        if GATED:
            scales2 = _scales(scale2_ptr, n_sums, first, N, K, GROUP)
    if PDL:
        gdc_wait()
    one = gl.minimum(rows, 1)  # not known to be 1, so that mask and exponent are set by one operation
    m = gl.arange(0, 8, layout=gl.SliceLayout(0, gl.SliceLayout(1, X)))[None, None, :]
    slice_x = gl.arange(0, SLICES, layout=gl.SliceLayout(1, gl.SliceLayout(2, X)))[:, None, None]
    x_scale, inverse_x_scale = 1.0, 1.0
    if KIND == FP8:
        x_scale = gl.load(x_scale_ptr).to(gl.float32)
        inverse_x_scale = 1.0 / x_scale
    if ROWS == 1:
        PARTS: gl.constexpr = 4 if KIND == INT4 else 1
        row_x = _shared_row(
            x_ptr, norm_weight_ptr, norm_bias_ptr, pre_scale_ptr, inverse_x_scale, K, K_PADDED, KIND, NORM, EPSILON,
            TYPE, SLICES, PARTS, BLOCK_C * CELL // PARTS,
        )  # fmt: skip
    mean, rstd = 0.0, 1.0
    if NORM != 0 and ROWS != 1:
        mean, rstd = _statistics(x_ptr, rows, NORM, EPSILON, K, K_PADDED, ROWS, SLICES, X)
    acc = gl.zeros([SLICES, BLOCK_N, 8], gl.float32, layout=SUMS)
    acc2 = acc
    for step in range(STEPS):
        w_now, w2_now, scales_now, scales2_now = w, w2, scales, scales2
        if STEPS > 1:  # request what follows before using what is there; beyond the end nothing is loaded
            after = cells + (step + 1) * STEP
            inside = (n_w < N) & (after < CELLS)
            w = gl.load(w_ptr + n_w.to(gl.int64) * CELLS + after, mask=inside, other=0.0, eviction_policy="evict_first")
            if GATED:
                w2 = gl.load(
                    w2_ptr + n_w.to(gl.int64) * CELLS + after, mask=inside, other=0.0, eviction_policy="evict_first"
                )
            if GROUP != 0:
                scales = _scales(scale_ptr, n_sums, first + (step + 1) * STEP, N, K, GROUP)
                if GATED:
                    scales2 = _scales(scale2_ptr, n_sums, first + (step + 1) * STEP, N, K, GROUP)
        if KIND == INT4:
            column = gl.arange(0, 2 * BLOCK_C, layout=gl.SliceLayout(0, gl.SliceLayout(2, X)))[None, :, None]
            excess = gl.full([SLICES, BLOCK_N, 2 * BLOCK_C], -pair_excess(TYPE), gl.float32, layout=W).to(TYPE)
            part = gl.zeros([SLICES, BLOCK_N, 8], gl.float32, layout=SUMS)
            part2 = part
            for i in gl.static_range(4):
                if ROWS == 1:
                    x = from_row(row_x, step * 4 + i, 2 * BLOCK_C, SLICES, X)
                else:
                    k = (step * STEP + slice_x * BLOCK_C) * 8 + i * 2 * BLOCK_C + column
                    x = _inputs(
                        x_ptr, norm_weight_ptr, norm_bias_ptr, pre_scale_ptr, 1.0, mean, rstd, m, k, rows, K, KIND,
                        NORM, TYPE,
                    )  # fmt: skip
                q = gl.convert_layout(pairs_of_nibbles(w_now, one, i, TYPE), W, assert_trivial=True)
                part = mma_v2(q, x, part)
                part = mma_v2(excess, x, part)
                if GATED:
                    q2 = gl.convert_layout(pairs_of_nibbles(w2_now, one, i, TYPE), W, assert_trivial=True)
                    part2 = mma_v2(q2, x, part2)
                    part2 = mma_v2(excess, x, part2)
            acc += part * scales_now
            if GATED:
                acc2 += part2 * scales2_now
        else:
            if ROWS == 1:
                x = from_row(row_x, step, CELL * BLOCK_C, SLICES, X)
            else:
                column = gl.arange(0, CELL * BLOCK_C, layout=gl.SliceLayout(0, gl.SliceLayout(2, X)))[None, :, None]
                k = (step * STEP + slice_x * BLOCK_C) * CELL + column
                x = _inputs(
                    x_ptr, norm_weight_ptr, norm_bias_ptr, pre_scale_ptr, inverse_x_scale, mean, rstd, m, k, rows, K,
                    KIND, NORM, TYPE,
                )  # fmt: skip
            acc = mma_v2(numbers(w_now, KIND, TYPE, W), x, acc)
            if GATED:
                acc2 = mma_v2(numbers(w2_now, KIND, TYPE, W), x, acc2)
    sums = gl.sum(acc, 0)  # (BLOCK_N, 8)
    END: gl.constexpr = gl.SliceLayout(0, SUMS)
    n = first_output + gl.arange(0, BLOCK_N, layout=gl.SliceLayout(1, END))
    y = activate(_outputs(sums, scale_ptr, bias_ptr, x_scale, n, N, KIND, GROUP, ONE_SCALE), ACTIVATION)
    if GATED:
        y *= _outputs(gl.sum(acc2, 0), scale2_ptr, bias2_ptr, x_scale, n, N, KIND, GROUP, ONE_SCALE)
    row = gl.arange(0, 8, layout=gl.SliceLayout(0, END))
    at = row.to(gl.int64)[None, :] * N + n[:, None]
    mask = (row < rows)[None, :] & (n < N)[:, None]
    if residual_ptr is not None:
        y += gl.load(residual_ptr + at, mask=mask, other=0.0).to(gl.float32)
    gl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask=mask)
