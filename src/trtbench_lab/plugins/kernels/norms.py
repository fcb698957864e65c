"""Kernels of RMS norm and layer norm: one program a row, which is read once and kept in registers, sums in float32.

The parts are shared: sum the residual, normalize, quantize. Each kernel is one combination, with the pointers that it
needs and no others.
"""

import triton
import triton.language as tl

from .rounding import quantize_row, round_to_int8


@triton.jit
def load_row(x_ptr, W: tl.constexpr, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    return tl.load(x_ptr + tl.program_id(0).to(tl.int64) * W + columns, mask=columns < W, other=0.0)


@triton.jit
def store_row(y_ptr, y, W: tl.constexpr, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    tl.store(y_ptr + tl.program_id(0).to(tl.int64) * W + columns, y, mask=columns < W)


@triton.jit
def add_rows(x_ptr, residual_ptr, sum_ptr, W: tl.constexpr, BLOCK: tl.constexpr):
    x = load_row(x_ptr, W, BLOCK)
    # The norm sees the rounded sum, as it does where the sum is an op of its own.
    total = (x.to(tl.float32) + load_row(residual_ptr, W, BLOCK).to(tl.float32)).to(x.dtype)
    store_row(sum_ptr, total, W, BLOCK)
    return total


@triton.jit
def rms_normalize(x, weight_ptr, W: tl.constexpr, BLOCK: tl.constexpr, EPSILON: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    wide = x.to(tl.float32)
    wide = wide * tl.rsqrt(tl.sum(wide * wide, axis=0) / W + EPSILON)
    weight = tl.load(weight_ptr + columns, mask=columns < W, other=0.0)
    return (wide.to(x.dtype).to(tl.float32) * weight.to(tl.float32)).to(x.dtype)


@triton.jit
def layer_normalize(x, weight_ptr, bias_ptr, W: tl.constexpr, BLOCK: tl.constexpr, EPSILON: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    wide = x.to(tl.float32)
    centred = tl.where(columns < W, wide - tl.sum(wide, axis=0) / W, 0.0)
    scaled = centred * tl.rsqrt(tl.sum(centred * centred, axis=0) / W + EPSILON)
    weight = tl.load(weight_ptr + columns, mask=columns < W, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + columns, mask=columns < W, other=0.0).to(tl.float32)
    return (scaled * weight + bias).to(x.dtype)


@triton.jit
def rms_norm(x_ptr, weight_ptr, y_ptr, W: tl.constexpr, BLOCK: tl.constexpr, EPSILON: tl.constexpr):
    y = rms_normalize(load_row(x_ptr, W, BLOCK), weight_ptr, W, BLOCK, EPSILON)
    store_row(y_ptr, y, W, BLOCK)


@triton.jit
def add_rms_norm(
    x_ptr, residual_ptr, weight_ptr, y_ptr, sum_ptr, W: tl.constexpr, BLOCK: tl.constexpr, EPSILON: tl.constexpr
):
    total = add_rows(x_ptr, residual_ptr, sum_ptr, W, BLOCK)
    store_row(y_ptr, rms_normalize(total, weight_ptr, W, BLOCK, EPSILON), W, BLOCK)


@triton.jit
def rms_norm_per_token(
    x_ptr, weight_ptr, q_ptr, scale_ptr, W: tl.constexpr, BLOCK: tl.constexpr, EPSILON: tl.constexpr
):
    y = rms_normalize(load_row(x_ptr, W, BLOCK), weight_ptr, W, BLOCK, EPSILON)
    store_row(q_ptr, quantize_row(y, scale_ptr), W, BLOCK)


@triton.jit
def add_rms_norm_per_token(
    x_ptr,
    residual_ptr,
    weight_ptr,
    q_ptr,
    scale_ptr,
    sum_ptr,
    W: tl.constexpr,
    BLOCK: tl.constexpr,
    EPSILON: tl.constexpr,
):
    total = add_rows(x_ptr, residual_ptr, sum_ptr, W, BLOCK)
    y = rms_normalize(total, weight_ptr, W, BLOCK, EPSILON)
    store_row(q_ptr, quantize_row(y, scale_ptr), W, BLOCK)


@triton.jit
def rms_norm_static(x_ptr, weight_ptr, scale_ptr, q_ptr, W: tl.constexpr, BLOCK: tl.constexpr, EPSILON: tl.constexpr):
    y = rms_normalize(load_row(x_ptr, W, BLOCK), weight_ptr, W, BLOCK, EPSILON)
    store_row(q_ptr, round_to_int8(y, tl.load(scale_ptr)), W, BLOCK)


@triton.jit
def add_rms_norm_static(
    x_ptr,
    residual_ptr,
    weight_ptr,
    scale_ptr,
    q_ptr,
    sum_ptr,
    W: tl.constexpr,
    BLOCK: tl.constexpr,
    EPSILON: tl.constexpr,
):
    total = add_rows(x_ptr, residual_ptr, sum_ptr, W, BLOCK)
    y = rms_normalize(total, weight_ptr, W, BLOCK, EPSILON)
    store_row(q_ptr, round_to_int8(y, tl.load(scale_ptr)), W, BLOCK)


@triton.jit
def layer_norm(x_ptr, weight_ptr, bias_ptr, y_ptr, W: tl.constexpr, BLOCK: tl.constexpr, EPSILON: tl.constexpr):
    y = layer_normalize(load_row(x_ptr, W, BLOCK), weight_ptr, bias_ptr, W, BLOCK, EPSILON)
    store_row(y_ptr, y, W, BLOCK)


@triton.jit
def add_layer_norm(
    x_ptr,
    residual_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    sum_ptr,
    W: tl.constexpr,
    BLOCK: tl.constexpr,
    EPSILON: tl.constexpr,
):
    total = add_rows(x_ptr, residual_ptr, sum_ptr, W, BLOCK)
    store_row(y_ptr, layer_normalize(total, weight_ptr, bias_ptr, W, BLOCK, EPSILON), W, BLOCK)


@triton.jit
def layer_norm_per_token(
    x_ptr, weight_ptr, bias_ptr, q_ptr, scale_ptr, W: tl.constexpr, BLOCK: tl.constexpr, EPSILON: tl.constexpr
):
    y = layer_normalize(load_row(x_ptr, W, BLOCK), weight_ptr, bias_ptr, W, BLOCK, EPSILON)
    store_row(q_ptr, quantize_row(y, scale_ptr), W, BLOCK)


@triton.jit
def add_layer_norm_per_token(
    x_ptr,
    residual_ptr,
    weight_ptr,
    bias_ptr,
    q_ptr,
    scale_ptr,
    sum_ptr,
    W: tl.constexpr,
    BLOCK: tl.constexpr,
    EPSILON: tl.constexpr,
):
    total = add_rows(x_ptr, residual_ptr, sum_ptr, W, BLOCK)
    y = layer_normalize(total, weight_ptr, bias_ptr, W, BLOCK, EPSILON)
    store_row(q_ptr, quantize_row(y, scale_ptr), W, BLOCK)


@triton.jit
def layer_norm_static(
    x_ptr, weight_ptr, bias_ptr, scale_ptr, q_ptr, W: tl.constexpr, BLOCK: tl.constexpr, EPSILON: tl.constexpr
):
    y = layer_normalize(load_row(x_ptr, W, BLOCK), weight_ptr, bias_ptr, W, BLOCK, EPSILON)
    store_row(q_ptr, round_to_int8(y, tl.load(scale_ptr)), W, BLOCK)


@triton.jit
def add_layer_norm_static(
    x_ptr,
    residual_ptr,
    weight_ptr,
    bias_ptr,
    scale_ptr,
    q_ptr,
    sum_ptr,
    W: tl.constexpr,
    BLOCK: tl.constexpr,
    EPSILON: tl.constexpr,
):
    total = add_rows(x_ptr, residual_ptr, sum_ptr, W, BLOCK)
    y = layer_normalize(total, weight_ptr, bias_ptr, W, BLOCK, EPSILON)
    store_row(q_ptr, round_to_int8(y, tl.load(scale_ptr)), W, BLOCK)
