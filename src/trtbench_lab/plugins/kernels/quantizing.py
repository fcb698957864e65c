"""Kernels that quantize activations to INT8: one program a row, read once."""

import triton
import triton.language as tl

from .norms import load_row, store_row
from .rounding import quantize_row, round_to_int8


@triton.jit
def quantize_per_token(x_ptr, q_ptr, scale_ptr, W: tl.constexpr, BLOCK: tl.constexpr):
    store_row(q_ptr, quantize_row(load_row(x_ptr, W, BLOCK), scale_ptr), W, BLOCK)


@triton.jit
def quantize_tensor(x_ptr, scale_ptr, q_ptr, W: tl.constexpr, BLOCK: tl.constexpr):
    store_row(q_ptr, round_to_int8(load_row(x_ptr, W, BLOCK), tl.load(scale_ptr)), W, BLOCK)
