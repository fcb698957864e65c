"""Parts that the matrix kernels share: the input's norm and scales, unpacking, the activation.

What varies between layers is a compile-time
constant, so each layer shape gets code without branches; an absent pointer is None and costs nothing.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

# How a weight is stored (WeightKind.code), and which activation follows (ACTIVATION_CODES).
DENSE = tl.constexpr(0)
INT8 = tl.constexpr(1)
INT4 = tl.constexpr(2)
FP8 = tl.constexpr(3)
INT8_INT8 = tl.constexpr(4)
RMS_NORM = tl.constexpr(1)
LAYER_NORM = tl.constexpr(2)
FP8_MAX = tl.constexpr(448.0)


@triton.jit
def start(PDL: tl.constexpr):
    """Let the next kernel of the stream begin to fetch its weights; then wait for the results of the one before."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit
def activate(y, ACTIVATION: tl.constexpr):
    """Apply an activation in float32."""
    if ACTIVATION == 1:  # gelu, tanh form: y / (1 + exp(-2u)) is y (1 + tanh u) / 2
        u = 0.7978845608028654 * (y + 0.044715 * y * y * y)
        y = y / (1.0 + tl.exp(-2.0 * u))
    elif ACTIVATION == 2:  # gelu
        y = 0.5 * y * (1.0 + tl.math.erf(y * 0.7071067811865476))
    elif ACTIVATION == 3:  # silu
        y = y / (1.0 + tl.exp(-y))
    elif ACTIVATION == 4:  # relu
        y = tl.maximum(y, 0.0)
    elif ACTIVATION == 5:  # squared relu
        y = tl.maximum(y, 0.0)
        y = y * y
    return y


@triton.jit
def to_fp8(x):
    """Round float32 to float8_e4m3fn, to nearest and even; what lies beyond its range takes the largest number."""
    x = tl.minimum(tl.maximum(x, -FP8_MAX), FP8_MAX)
    # Rounded here, so that the conversion is exact: Triton's interpreter loses a carry into the exponent.
    bits = x.to(tl.int32, bitcast=True)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000).to(tl.float32, bitcast=True)  # three bits of mantissa
    small = (x + 24576.0) - 24576.0  # multiples of 2^-9, which is the spacing of 24576
    return tl.where(tl.abs(x) < 0.015625, small, normal).to(tl.float8e4nv)


@triton.jit
def row_statistics(x_ptr, NORM: tl.constexpr, EPSILON: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr):
    """Return mean and 1 / deviation (root mean square for an RMS norm) of row 0 of x (1, K)."""
    k = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + k, mask=k < K, other=0.0).to(tl.float32)
    mean = 0.0
    if NORM == LAYER_NORM:
        mean = tl.sum(x, 0) / K
        x = tl.where(k < K, x - mean, 0.0)
    return mean, tl.rsqrt(tl.sum(x * x, 0) / K + EPSILON)


@triton.jit
def prepare(
    x,
    k,
    inside,
    mean,
    rstd,
    norm_weight_ptr,
    norm_bias_ptr,
    pre_scale_ptr,
    inverse_x_scale,
    NORM: tl.constexpr,
    KIND: tl.constexpr,
    TYPE: tl.constexpr,
):
    """Turn loaded inputs (their features numbered by `k`, of the same shape) into what is multiplied.

    Rounds where the separate operations would: to the computation's type `TYPE` after the norm and after the scale.
    """
    if NORM != 0:
        x = (x.to(tl.float32) - mean) * rstd if NORM == LAYER_NORM else x.to(tl.float32) * rstd
        weight = tl.load(norm_weight_ptr + k, mask=inside, other=0.0).to(tl.float32)
        if NORM == LAYER_NORM:
            if norm_bias_ptr is not None:
                x = x * weight + tl.load(norm_bias_ptr + k, mask=inside, other=0.0).to(tl.float32)
            else:
                x = x * weight
            x = x.to(TYPE)
        else:
            x = (x.to(TYPE).to(tl.float32) * weight).to(TYPE)
    if pre_scale_ptr is not None:
        x = (x.to(tl.float32) * tl.load(pre_scale_ptr + k, mask=inside, other=0.0).to(tl.float32)).to(TYPE)
    if KIND == FP8:
        x = x.to(tl.float32) * inverse_x_scale
        x = to_fp8(x)
    return x


@triton.jit
def nibble(words, I: tl.constexpr):
    """Return the signed 4-bit number `I` of int32 words as float32.

    The bits are placed in the mantissa of 2²³, and that is subtracted, instead of being converted: operations of full
    rate. Exclusive or with 8 turns two's complement into the value plus 8.
    """
    return (((words >> (4 * I)) & 0xF) ^ 0x4B000008).to(tl.float32, bitcast=True) - 8388616.0


@triton.jit
def nibble_mantissa(words, one, I: tl.constexpr):
    """Return 1 + (q + 8) / 16 for the signed 4-bit number q = `I` of int32 words (1 + (q + 8) / 256 for I = 1, 3, 5).

    Two neighbours share a shift, which is why some lie four bits lower. `one` is the number 1 at run time: a mask that
    the compiler does not know stays in a register, and mask and exponent are set by a single operation.
    """
    if I == 0:
        bits = words << 19
    elif I <= 2:
        bits = words << 11
    elif I <= 4:
        bits = words << 3
    elif I <= 6:
        bits = words >> 5
    else:
        bits = words >> 9
    if I % 2 == 1 and I != 7:
        return ((bits & (one * 0x00078000)) ^ 0x3F840000).to(tl.float32, bitcast=True)
    else:
        return ((bits & (one * 0x00780000)) ^ 0x3FC00000).to(tl.float32, bitcast=True)


@triton.jit
def element_of(word, I: tl.constexpr, NIBBLES: tl.constexpr):
    """Return the input feature that nibble `I` of a word holds; see `LinearWeights.nibbles`."""
    if NIBBLES == 0:
        return 8 * word + I
    else:
        return (word // NIBBLES) * (8 * NIBBLES) + I * NIBBLES + word % NIBBLES
