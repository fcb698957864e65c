"""Up to eight rows times a weight whose bytes never stop coming: few programs that stay, and deep reads ahead.

Programs stay for the whole product and take its blocks of outputs in turn, so that inputs are prepared once a program,
not once a block. Each thread keeps AHEAD reads of 16 bytes and more in flight in registers, where they are its part of
the tensor cores' operand, as in `direct`: the next block's weights are on their way while this one's are used, and the
first block's before the previous kernel of the stream has ended.

Written in Gluon, Triton's language with explicit layouts.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .common import FP8, INT4, INT8, activate, pair_excess
from .inputs import (
    norm_parameters,
    prepared_rows,
    shared_inputs,
    shared_sums,
    step_inputs,
    sums_of_slices,
    whole_rows,
)
from .operands import numbers, pairs_of_nibbles, sums_layout


@gluon.jit
def _either(n, first_ptr, second_ptr, offsets, OUTPUTS: gl.constexpr):
    """Pointers into the weight that the rows `n` of a block belong to: the second one's rows follow the first one's."""
    if second_ptr is None:
        return first_ptr + offsets
    else:
        return gl.where(n < OUTPUTS, first_ptr + offsets, second_ptr + offsets)


@gluon.jit
def _fetch(w_ptr, w2_ptr, n, cells, block, step, N: gl.constexpr, CELLS: gl.constexpr, OUTPUTS: gl.constexpr,
           STEP: gl.constexpr, AHEAD: gl.constexpr):  # fmt: skip
    """Read a step of weights: (SLICES, BLOCK_N, BLOCK_C); zeros beyond the ends, which a round of AHEAD may pass."""
    row = block * OUTPUTS + n % OUTPUTS
    cell = step * STEP + cells
    if N * CELLS < 2**31:
        offsets = row * CELLS + cell
    else:
        offsets = row.to(gl.int64) * CELLS + cell
    if N % OUTPUTS == 0:
        inside = block * OUTPUTS < N
    else:
        inside = row < N
    if CELLS % (STEP * AHEAD) != 0:
        inside = inside & (cell < CELLS)
    pointers = _either(n, w_ptr, w2_ptr, offsets, OUTPUTS)
    return gl.load(pointers, mask=inside, other=0.0, eviction_policy="evict_first")


@gluon.jit
def _fetch_scales(scale_ptr, scale2_ptr, n, slices, block, step, N: gl.constexpr, GROUPS: gl.constexpr,
                  OUTPUTS: gl.constexpr, SLICES: gl.constexpr):  # fmt: skip
    """Read the scales of a step's groups, one for each row and slice: (SLICES, BLOCK_N, 1)."""
    row = block * OUTPUTS + n % OUTPUTS
    group = step * SLICES + slices
    pointers = _either(n, scale_ptr, scale2_ptr, row * GROUPS + group, OUTPUTS)
    return gl.load(pointers, mask=(row < N) & (group < GROUPS), other=0.0)


@gluon.jit
def _of_outputs(pointer, pointer2, n, row, N: gl.constexpr, OUTPUTS: gl.constexpr, ONE: gl.constexpr):
    """Load one number for each row `n` of a block, which is the weight's row `row`: (BLOCK_N, 1) float32."""
    at = row * 0 if ONE else row
    return gl.load(_either(n, pointer, pointer2, at, OUTPUTS), mask=row < N, other=0.0).to(gl.float32)[:, None]


@gluon.jit
def _factors(block):
    """Split a block (BLOCK_N, 8) of two weights into what belongs to the first and to the second."""
    return gl.split(gl.permute(gl.reshape(block, [2, block.shape[0] // 2, 8]), [1, 2, 0]))


@gluon.jit(do_not_specialize=["rows"])
def stream_kernel(
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
    AHEAD: gl.constexpr,
    PROGRAMS: gl.constexpr,
    K_PADDED: gl.constexpr,
    PDL: gl.constexpr,
):
    """``out = act(norm(x) Wᵀ + b) · (norm(x) W2ᵀ + b2) + residual`` for x (rows ≤ 8, K); each part may be absent.

    A cell is one element of the weight, or one int32 word: of four 8-bit ones, or of eight 4-bit ones in blocks of
    NIBBLES = BLOCK_C words, each of one group. Each of SLICES warps takes BLOCK_C cells a step. ROWS is 1, or 8 for
    more rows. There are no zero points. Of two weights a block has BLOCK_N / 2 rows each, side by side.
    """
    CELL: gl.constexpr = 8 if KIND == INT4 else (4 if KIND == FP8 or KIND == INT8 else 1)
    CELLS: gl.constexpr = K // CELL
    STEP: gl.constexpr = SLICES * BLOCK_C
    STEPS: gl.constexpr = (CELLS + STEP - 1) // STEP
    TYPE: gl.constexpr = x_ptr.dtype.element_ty
    GATED: gl.constexpr = w2_ptr is not None
    OUTPUTS: gl.constexpr = BLOCK_N // 2 if GATED else BLOCK_N
    BLOCKS: gl.constexpr = (N + OUTPUTS - 1) // OUTPUTS
    GROUPED: gl.constexpr = GROUP != 0
    SUMS: gl.constexpr = sums_layout(SLICES)
    # What a thread reads at once, 16 bytes, is its part of the operand; words become four or eight numbers each later.
    WIDE: gl.constexpr = 128 // w_ptr.dtype.element_ty.primitive_bitwidth
    WORDS: gl.constexpr = gl.DotOperandLayout(0, SUMS, WIDE)
    X_WIDE: gl.constexpr = 8 if KIND == INT4 else WIDE * CELL
    W: gl.constexpr = gl.DotOperandLayout(0, SUMS, X_WIDE)
    X: gl.constexpr = gl.DotOperandLayout(1, SUMS, X_WIDE)
    ROUNDS: gl.constexpr = (STEPS + AHEAD - 1) // AHEAD
    GROUPS: gl.constexpr = K // GROUP if GROUPED else 1
    if PDL:
        gdc_launch_dependents()
    pid = gl.program_id(0)
    slice_w = gl.arange(0, SLICES, layout=gl.SliceLayout(1, gl.SliceLayout(2, WORDS)))[:, None, None]
    n_w = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, gl.SliceLayout(2, WORDS)))[None, :, None]
    cell_w = gl.arange(0, BLOCK_C, layout=gl.SliceLayout(0, gl.SliceLayout(1, WORDS)))[None, None, :]
    cells = slice_w * BLOCK_C + cell_w
    n_s = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, gl.SliceLayout(2, SUMS)))[None, :, None]
    slice_s = gl.arange(0, SLICES, layout=gl.SliceLayout(1, gl.SliceLayout(2, SUMS)))[:, None, None]
    coming, scales = (), ()
    for i in gl.static_range(AHEAD):
        coming += (_fetch(w_ptr, w2_ptr, n_w, cells, pid, i, N, CELLS, OUTPUTS, STEP, AHEAD),)
        if GROUPED:
            scales += (_fetch_scales(scale_ptr, scale2_ptr, n_s, slice_s, pid, i, N, GROUPS, OUTPUTS, SLICES),)
    WIDE_X: gl.constexpr = whole_rows(ROWS, SLICES)
    norm_weight, norm_bias = 1.0, 0.0
    if NORM != 0:
        norm_weight, norm_bias = norm_parameters(norm_weight_ptr, norm_bias_ptr, K, K_PADDED, WIDE_X)
    if PDL:
        gdc_wait()
    one = gl.minimum(rows, 1)  # not known to be 1, so that mask and exponent are set by one operation
    x_scale, inverse_x_scale = 1.0, 1.0
    if KIND == FP8:
        x_scale = gl.load(x_scale_ptr).to(gl.float32)
        inverse_x_scale = 1.0 / x_scale
    PARTS: gl.constexpr = 4 if KIND == INT4 else 1
    PART: gl.constexpr = BLOCK_C * CELL // PARTS
    prepared = prepared_rows(
        x_ptr, rows, norm_weight, norm_bias, pre_scale_ptr, inverse_x_scale, K, K_PADDED, KIND, NORM, EPSILON, TYPE,
        ROWS, WIDE_X,
    )  # fmt: skip
    x_shared = shared_inputs(prepared, K_PADDED, ROWS, SLICES, PARTS, PART)
    x_sums = x_shared
    if KIND == INT4:
        x_sums = shared_sums(prepared, K_PADDED, ROWS, SLICES, BLOCK_C * CELL)
    gl.thread_barrier()  # here, or the compiler places one into the loop that reads
    END: gl.constexpr = gl.SliceLayout(0, SUMS)
    row = gl.arange(0, 8, layout=gl.SliceLayout(0, END))[None, :]
    n_end = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(1, END))
    for block in range(pid, BLOCKS, PROGRAMS):
        # What follows the sums is requested before they are made.
        n = block * OUTPUTS + n_end % OUTPUTS
        at = n[:, None] + row * N
        inside = (n < N)[:, None] & (row < rows)
        scale, bias, residual = 1.0, 0.0, 0.0
        if scale_ptr is not None and not GROUPED:
            scale = _of_outputs(scale_ptr, scale2_ptr, n_end, n, N, OUTPUTS, ONE_SCALE)
        if bias_ptr is not None:
            bias = _of_outputs(bias_ptr, bias2_ptr, n_end, n, N, OUTPUTS, False)
        if residual_ptr is not None and not GATED:
            residual = gl.load(residual_ptr + at, mask=inside, other=0.0).to(gl.float32)
        acc = gl.zeros([SLICES, BLOCK_N, 8], gl.float32, layout=SUMS)
        odd = acc  # two chains of sums, so that one need not wait for the other
        for turn in range(ROUNDS):
            last = turn == ROUNDS - 1
            next_block = gl.where(last, block + PROGRAMS, block)
            next_first = gl.where(last, 0, (turn + 1) * AHEAD)
            new, new_scales = (), ()
            for i in gl.static_range(AHEAD):
                step = turn * AHEAD + i
                if KIND == INT4:
                    part = gl.zeros([SLICES, BLOCK_N, 8], gl.float32, layout=SUMS)
                    for j in gl.static_range(4):
                        x = step_inputs(x_shared, step * 4 + j, 2 * BLOCK_C, SLICES, ROWS, X)
                        q = gl.convert_layout(pairs_of_nibbles(coming[i], one, j, TYPE), W, assert_trivial=True)
                        part = mma_v2(q, x, part)
                    part -= sums_of_slices(x_sums, step, SLICES, ROWS, SUMS) * pair_excess(TYPE)
                    if GROUPED:
                        part *= scales[i].to(gl.float32)
                    acc += part
                else:
                    x = step_inputs(x_shared, step, PART, SLICES, ROWS, X)
                    q = numbers(coming[i], KIND, TYPE, W)
                    if i % 2 == 0:
                        acc = mma_v2(q, x, acc)
                    else:
                        odd = mma_v2(q, x, odd)
                then = next_first + i
                new += (_fetch(w_ptr, w2_ptr, n_w, cells, next_block, then, N, CELLS, OUTPUTS, STEP, AHEAD),)
                if GROUPED:
                    new_scales += (
                        _fetch_scales(
                            scale_ptr, scale2_ptr, n_s, slice_s, next_block, then, N, GROUPS, OUTPUTS, SLICES
                        ),
                    )
                one = _hold(one)
            coming, scales = new, new_scales
        y = gl.sum(acc + odd, 0) * (scale * x_scale) + bias
        if GATED:
            first, second = _factors(y)
            at, _ = _factors(at)
            inside, _ = _factors(inside)
            y = activate(first, ACTIVATION) * second
            if residual_ptr is not None:
                residual = gl.load(residual_ptr + at, mask=inside, other=0.0).to(gl.float32)
            gl.store(out_ptr + at, (y + residual).to(out_ptr.dtype.element_ty), mask=inside)
        else:
            y = activate(y, ACTIVATION) + residual
            gl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask=inside)


@gluon.jit
def _hold(one):
    """Keep the assembler from moving reads behind what is computed, where it likes them and they would come late."""
    return gl.inline_asm_elementwise("bar.warp.sync 0xffffffff; mov.b32 $0, $1;", "=r,r", [one], gl.int32, False, 1)
