"""Inputs of a product prepared once for a whole program, in shared memory: normed, scaled, rounded, in order of steps.

Written in Gluon, Triton's language with explicit layouts.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from .common import DENSE, FP8, LAYER_NORM, normalized, scaled
from .operands import from_row, rounded_to_fp8


@gluon.constexpr_function
def _bits(size):
    return [1 << i for i in range(size.bit_length() - 1)]


@gluon.constexpr_function
def _rows_layout(slices, part, wide):
    """Order of a step's inputs of eight rows: (slices, part, 8), 16 bytes of a row together, then as `_ring_layout`."""
    near = [k for k in _bits(part) if k < wide]
    four = [k for k in _bits(part) if wide <= k < wide * 4]
    far = [k for k in _bits(part) if k >= wide * 4]
    bases = [[0, k, 0] for k in near] + [[0, k, 0] for k in four] + [[0, 0, m] for m in _bits(8)]
    bases += [[0, k, 0] for k in far] + [[s, 0, 0] for s in _bits(slices)]
    return gl.SharedLinearLayout(bases, [], 128)


@gluon.constexpr_function
def _steps_layout(steps, slices, part):
    bases = [[0, *base] for base in _rows_layout(slices, part, 8).offset_bases]
    bases += [[s, 0, 0, 0] for s in _bits(steps)]
    return gl.SharedLinearLayout(bases, [], 128)


@gluon.constexpr_function
def whole_rows(rows, slices):
    """Layout of whole rows in registers, 16 bytes a thread at once."""
    return gl.BlockedLayout([1, 8], [1, 32], [1, slices], [1, 0])


@gluon.jit
def norm_parameters(weight_ptr, bias_ptr, K: gl.constexpr, K_PADDED: gl.constexpr, WIDE: gl.constexpr):
    """Load a norm's weight and bias: both (1, K_PADDED)."""
    k = gl.arange(0, K_PADDED, layout=gl.SliceLayout(0, WIDE))[None, :]
    weight = gl.load(weight_ptr + k, mask=k < K, other=0.0)
    bias = gl.zeros([1, K_PADDED], gl.float32, layout=WIDE)
    if bias_ptr is not None:
        bias = gl.load(bias_ptr + k, mask=k < K, other=0.0).to(gl.float32)
    return weight, bias


@gluon.jit
def prepared_rows(x_ptr, rows, norm_weight, norm_bias, pre_scale_ptr, inverse_x_scale, K: gl.constexpr,
                   K_PADDED: gl.constexpr, KIND: gl.constexpr, NORM: gl.constexpr, EPSILON: gl.constexpr,
                   TYPE: gl.constexpr, ROWS: gl.constexpr, WIDE: gl.constexpr):  # fmt: skip
    """Load all inputs and turn them into what is multiplied, (ROWS, K_PADDED); FP8 as float16, which holds each."""
    m = gl.arange(0, ROWS, layout=gl.SliceLayout(1, WIDE))[:, None]
    k = gl.arange(0, K_PADDED, layout=gl.SliceLayout(0, WIDE))[None, :]
    inside = (m < rows) & (k < K)
    x = gl.load(x_ptr + m * K + k, mask=inside, other=0.0)
    if NORM != 0:
        wide = x.to(gl.float32)
        mean = gl.zeros([ROWS, 1], gl.float32, layout=WIDE)
        if NORM == LAYER_NORM:
            mean = gl.sum(wide, 1)[:, None] / K
            wide = gl.where(inside, wide - mean, 0.0)
        rstd = gl.rsqrt(gl.sum(wide * wide, 1) / K + EPSILON)[:, None]
        x = normalized(x, mean, rstd, norm_weight, norm_bias, NORM, TYPE)
    x = scaled(x, k, k < K, pre_scale_ptr, 1.0, DENSE, TYPE)
    if KIND == FP8:
        x = rounded_to_fp8(x.to(gl.float32) * inverse_x_scale)
    return x


@gluon.jit
def shared_inputs(x, K_PADDED: gl.constexpr, ROWS: gl.constexpr, SLICES: gl.constexpr, PARTS: gl.constexpr,
            PART: gl.constexpr):  # fmt: skip
    """Place prepared inputs into shared memory by step: (steps · PARTS, SLICES, PART), of eight rows (…, PART, 8)."""
    STEPS: gl.constexpr = K_PADDED // (SLICES * PARTS * PART)
    x = gl.permute(gl.reshape(x, [ROWS, STEPS, SLICES, PARTS, PART]), [1, 3, 2, 4, 0])
    if ROWS == 1:
        x = gl.reshape(x, [STEPS * PARTS, SLICES, PART])
        shared = gl.allocate_shared_memory(x.dtype, x.shape, gl.SwizzledSharedLayout(1, 1, 1, [2, 1, 0]), x)
        found = shared._reinterpret(x.dtype, x.shape, gl.SwizzledSharedLayout(1, 1, 1, [1, 0]))
    else:
        x = gl.reshape(x, [STEPS * PARTS, SLICES, PART, ROWS])
        shared = gl.allocate_shared_memory(x.dtype, x.shape, _steps_layout(STEPS * PARTS, SLICES, PART), x)
        found = shared._reinterpret(x.dtype, x.shape, _rows_layout(SLICES, PART, 8))
    return found


@gluon.jit
def shared_sums(x, K_PADDED: gl.constexpr, ROWS: gl.constexpr, SLICES: gl.constexpr, CELLS: gl.constexpr):
    """Sums of the inputs over each slice of each step, in shared memory: (steps, SLICES, ROWS) float32."""
    STEPS: gl.constexpr = K_PADDED // (SLICES * CELLS)
    sums = gl.sum(gl.reshape(x.to(gl.float32), [ROWS, STEPS, SLICES, CELLS]), 3)
    sums = gl.permute(sums, [1, 2, 0])
    shared = gl.allocate_shared_memory(gl.float32, sums.shape, gl.SwizzledSharedLayout(1, 1, 1, [2, 1, 0]), sums)
    return shared._reinterpret(gl.float32, sums.shape, gl.SwizzledSharedLayout(1, 1, 1, [1, 0]))


@gluon.jit
def sums_of_slices(sums, step, SLICES: gl.constexpr, ROWS: gl.constexpr, SUMS: gl.constexpr):
    """Read a step's sums of inputs as the products want them: (SLICES, 1, 8)."""
    if ROWS == 1:
        read = sums.index(step).reshape([SLICES]).load(gl.SliceLayout(1, gl.SliceLayout(2, SUMS)))
        return gl.expand_dims(gl.expand_dims(read, 1), 2)
    else:
        return gl.expand_dims(sums.index(step).load(gl.SliceLayout(1, SUMS)), 1)


@gluon.jit
def step_inputs(x_shared, part, BLOCK: gl.constexpr, SLICES: gl.constexpr, ROWS: gl.constexpr, X: gl.constexpr):
    """Read a step's inputs as the tensor cores' second operand: (SLICES, BLOCK, 8)."""
    if ROWS == 1:
        return from_row(x_shared, part, BLOCK, SLICES, X)
    else:
        return x_shared.index(part).load(X)
