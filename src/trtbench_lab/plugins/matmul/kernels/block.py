"""Parts that the kernels of several rows share: norm statistics, dequantizing a block, scales and bias, the result."""

from __future__ import annotations

import triton
import triton.language as tl

from .common import DENSE, FP8, INT8_INT8, LAYER_NORM, activate, nibble


@triton.jit
def rows_statistics(x_ptr, m, inside, NORM: tl.constexpr, EPSILON: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr):
    """Return mean and 1 / deviation of rows `m` of x (rows, K): both (BLOCK_M,), in two passes over cached inputs."""
    k = tl.arange(0, BLOCK)
    pointers = x_ptr + m.to(tl.int64)[:, None] * K + k[None, :]
    total = tl.zeros((m.shape[0], BLOCK), tl.float32)
    mean = tl.zeros((m.shape[0],), tl.float32)
    if NORM == LAYER_NORM:
        for start in range(0, K, BLOCK):
            total += tl.load(pointers + start, mask=inside[:, None] & (k < K - start)[None, :], other=0.0)
        mean = tl.sum(total, 1) / K
        total = tl.zeros((m.shape[0], BLOCK), tl.float32)
    for start in range(0, K, BLOCK):
        mask = inside[:, None] & (k < K - start)[None, :]
        x = tl.load(pointers + start, mask=mask, other=0.0).to(tl.float32)
        x = tl.where(mask, x - mean[:, None], 0.0)
        total += x * x
    return mean, tl.rsqrt(tl.sum(total, 1) / K + EPSILON)


@triton.jit
def with_group(w, pointer, zero_ptr, n, group, inside, GROUPS: tl.constexpr, TYPE: tl.constexpr):
    """Dequantize a block in the computation's type; `n` and `group` broadcast to its shape."""
    at = n.to(tl.int64) * GROUPS + group
    w = w.to(tl.float32)
    if zero_ptr is not None:
        w -= tl.load(zero_ptr + at, mask=inside, other=0).to(tl.float32)
    return (w * tl.load(pointer + at, mask=inside, other=0.0).to(tl.float32)).to(TYPE)


@triton.jit
def outputs(
    acc,
    scale_ptr,
    bias_ptr,
    x_scale,
    n,
    N: tl.constexpr,
    KIND: tl.constexpr,
    GROUP: tl.constexpr,
    ONE_SCALE: tl.constexpr,
):
    """Apply the scales that belong to whole outputs, then the bias: (BLOCK_M, BLOCK_N) float32.

    `x_scale` is a number, or (BLOCK_M, 1) where each row has its own.
    """
    y = acc.to(tl.float32)
    if KIND == FP8 or KIND == INT8_INT8:
        y *= x_scale
    if KIND != DENSE and GROUP == 0:
        if ONE_SCALE:
            y *= tl.load(scale_ptr).to(tl.float32)
        else:
            y *= tl.load(scale_ptr + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    if bias_ptr is not None:
        y += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    return y


@triton.jit
def pair_weights(w, i: tl.constexpr, scale_ptr, zero_ptr, n, group, inside, GROUPS: tl.constexpr, TYPE: tl.constexpr):
    """Return nibbles i and i + 4 of words (…, W) as weights, dequantized one by one: two tensors (…, W)."""
    low, high = nibble(w, i), nibble(w, i + 4)
    if GROUPS != 0:
        low = with_group(low, scale_ptr, zero_ptr, n, group, inside, GROUPS, TYPE)
        high = with_group(high, scale_ptr, zero_ptr, n, group, inside, GROUPS, TYPE)
    return low.to(TYPE), high.to(TYPE)


@triton.jit
def store_block(
    acc,
    acc2,
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
    N: tl.constexpr,
    KIND: tl.constexpr,
    GROUP: tl.constexpr,
    ONE_SCALE: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """Finish a block of outputs and store it."""
    y = activate(outputs(acc, scale_ptr, bias_ptr, x_scale, n, N, KIND, GROUP, ONE_SCALE), ACTIVATION)
    if w2_ptr is not None:
        y *= outputs(acc2, scale2_ptr, bias2_ptr, x_scale, n, N, KIND, GROUP, ONE_SCALE)
    at = m.to(tl.int64)[:, None] * N + n[None, :]
    mask = inside_m[:, None] & (n < N)[None, :]
    if residual_ptr is not None:
        y += tl.load(residual_ptr + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask=mask)
