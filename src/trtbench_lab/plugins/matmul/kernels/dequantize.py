"""The kernel that makes a quantized weight dense."""

from __future__ import annotations

import triton
import triton.language as tl

from .common import INT4, nibble


@triton.jit
def dequantize_kernel(
    w_ptr,
    scale_ptr,
    zero_ptr,
    dense_ptr,
    N: tl.constexpr,
    K: tl.constexpr,
    KIND: tl.constexpr,
    GROUP: tl.constexpr,
    NIBBLES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``dense = (q − zero) · scale``, each step rounded to the type of `dense` (N, K), as the definition does."""
    CELLS: tl.constexpr = K // 8 if KIND == INT4 else K
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    cells = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    inside = (n < N) & (cells < CELLS)
    w = tl.load(w_ptr + n.to(tl.int64) * CELLS + cells, mask=inside, other=0)
    WIDTH: tl.constexpr = 2 * NIBBLES if NIBBLES > 0 else 1
    if KIND == INT4:
        column = tl.arange(0, 2 * BLOCK_C)[None, :]
        start = tl.program_id(1) * BLOCK_C
        for i in tl.static_range(4):
            pairs = tl.reshape(tl.join(nibble(w, i), nibble(w, i + 4)), (BLOCK_N, 2 * BLOCK_C))
            if NIBBLES == 0:
                k = 8 * (start + column // 2) + i + 4 * (column % 2)
            else:  # a run of 2 · NIBBLES neighbours in each block
                k = start * 8 + (column // WIDTH) * (4 * WIDTH) + i * WIDTH + column % WIDTH
            _store(pairs, k, n, (n < N) & (k < K), scale_ptr, zero_ptr, dense_ptr, K, GROUP)
    else:
        _store(w.to(tl.float32), cells, n, inside, scale_ptr, zero_ptr, dense_ptr, K, GROUP)


@triton.jit
def _store(q, k, n, inside, scale_ptr, zero_ptr, dense_ptr, K: tl.constexpr, GROUP: tl.constexpr):
    TYPE: tl.constexpr = dense_ptr.dtype.element_ty
    row = n.to(tl.int64)
    if GROUP == 0:
        scale = tl.load(scale_ptr + row, mask=inside, other=0.0)
    else:
        scale = tl.load(scale_ptr + row * (K // GROUP) + k // GROUP, mask=inside, other=0.0)
        if zero_ptr is not None:
            q = q - tl.load(zero_ptr + row * (K // GROUP) + k // GROUP, mask=inside, other=0).to(tl.float32)
    tl.store(dense_ptr + row * K + k, (q * scale.to(tl.float32)).to(TYPE), mask=inside)
