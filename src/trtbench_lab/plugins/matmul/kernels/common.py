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
def _add_pairs(a, b, c, d):
    return a + c, b + d


@triton.jit
def statistics(x, count, NORM: tl.constexpr, EPSILON: tl.constexpr, K: tl.constexpr):
    """Return mean and 1 / deviation (root mean square for an RMS norm) of all of `x`, float32 with zeros beyond K.

    One reduction of two sums: a second one would cost as much as a fifth of a small product.
    """
    flat = tl.reshape(x, (count,))
    if NORM == LAYER_NORM:
        total, squares = tl.reduce((flat, flat * flat), 0, _add_pairs)
        mean = total / K
        return mean, tl.rsqrt(tl.maximum(squares / K - mean * mean, 0.0) + EPSILON)
    else:
        return 0.0, tl.rsqrt(tl.sum(flat * flat, 0) / K + EPSILON)


@triton.jit
def normalized(x, mean, rstd, weight, bias, NORM: tl.constexpr, TYPE: tl.constexpr):
    """Apply a norm to inputs, rounding where the separate operation does; `bias` is 0.0 where there is none."""
    wide = x.to(tl.float32)
    if NORM == LAYER_NORM:
        return ((wide - mean) * rstd * weight.to(tl.float32) + bias).to(TYPE)
    else:
        return ((wide * rstd).to(TYPE).to(tl.float32) * weight.to(tl.float32)).to(TYPE)


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
    """Turn loaded inputs (their features numbered by `k`, of the same shape) into what is multiplied."""
    if NORM != 0:
        weight = tl.load(norm_weight_ptr + k, mask=inside, other=0.0)
        bias = 0.0
        if norm_bias_ptr is not None:
            bias = tl.load(norm_bias_ptr + k, mask=inside, other=0.0).to(tl.float32)
        x = normalized(x, mean, rstd, weight, bias, NORM, TYPE)
    return scaled(x, k, inside, pre_scale_ptr, inverse_x_scale, KIND, TYPE)


@triton.jit
def scaled(x, k, inside, pre_scale_ptr, inverse_x_scale, KIND: tl.constexpr, TYPE: tl.constexpr):
    """Apply the scale of AWQ, or round to FP8."""
    if pre_scale_ptr is not None:
        x = (x.to(tl.float32) * tl.load(pre_scale_ptr + k, mask=inside, other=0.0).to(tl.float32)).to(TYPE)
    if KIND == FP8:
        x = to_fp8(x.to(tl.float32) * inverse_x_scale)
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
    """Return (q + 8) + `nibble_offset(I)` for the signed 4-bit number q = `I` of int32 words.

    Its bits are placed in the mantissa of a power of two in whose units they count: wherever they lie is a place, so
    that eight numbers need two shifts. `one` is the number 1 at run time: a mask that the compiler does not know stays
    in a register, and mask and exponent are set by a single operation.
    """
    if I <= 1:
        bits = words << 12
    elif I <= 4:
        bits = words
    else:
        bits = words >> 12
    PLACE: tl.constexpr = nibble_place(I)
    MASK: tl.constexpr = 15 << PLACE
    # Exclusive or with the highest of the four bits turns two's complement into the value plus 8.
    HEAD: tl.constexpr = ((127 + 23 - PLACE) << 23) ^ (8 << PLACE)
    return ((bits & (one * MASK)) ^ HEAD).to(tl.float32, bitcast=True)


@triton.constexpr_function
def nibble_place(i):
    """Return the lowest bit of nibble `i` once its word is shifted."""
    return 4 * i + 12 if i <= 1 else 4 * i if i <= 4 else 4 * i - 12


@triton.constexpr_function
def nibble_offset(i):
    """Return what `nibble_mantissa` adds to the number plus 8."""
    return float(1 << (23 - nibble_place(i)))


@triton.jit
def byte(words, I: tl.constexpr):
    """Return the signed byte `I` of int32 words as float32, exactly; see `nibble`."""
    return (((words >> (8 * I)) & 0xFF) ^ 0x4B000080).to(tl.float32, bitcast=True) - 8388736.0


@triton.jit
def byte_mantissa(words, one, I: tl.constexpr):
    """Return (q + 128) + `byte_offset(I)` for the signed byte q = `I` of int32 words; see `nibble_mantissa`.

    A conversion from integers runs at an eighth of the rate of these operations.
    """
    if I == 0:
        bits = words << 15
    elif I == 1:
        bits = words
    else:
        bits = words >> 9
    PLACE: tl.constexpr = byte_place(I)
    MASK: tl.constexpr = 255 << PLACE
    HEAD: tl.constexpr = ((127 + 23 - PLACE) << 23) ^ (128 << PLACE)
    return ((bits & (one * MASK)) ^ HEAD).to(tl.float32, bitcast=True)


@triton.constexpr_function
def byte_place(i):
    """Return the lowest bit of byte `i` once its word is shifted."""
    return (15, 8, 7, 15)[i]


@triton.constexpr_function
def byte_offset(i):
    """Return what `byte_mantissa` adds to the number plus 128."""
    return float(1 << (23 - byte_place(i)))


@triton.jit
def element_of(word, I: tl.constexpr, NIBBLES: tl.constexpr):
    """Return the input feature that nibble `I` of a word holds; see `LinearWeights.nibbles`."""
    if NIBBLES == 0:
        return 8 * word + I
    else:
        return (word // NIBBLES) * (8 * NIBBLES) + (I % 4) * (2 * NIBBLES) + 2 * (word % NIBBLES) + I // 4


@triton.jit
def pair_excess(TYPE: tl.constexpr):
    """Return what `nibble_pairs` leaves on top of each weight: 136 or 1032, exact in 8 and 11 bits of mantissa."""
    return 136.0 if TYPE == tl.bfloat16 else 1032.0


@triton.jit
def nibble_pairs(words, one, I: tl.constexpr, TYPE: tl.constexpr):
    """Return nibbles `I` and I + 4 of words as two tensors of a 16-bit TYPE, each with `pair_excess` on top.

    Two elements are placed in the mantissas of two numbers by one operation, and never converted; `one` as in
    `nibble_mantissa`.
    """
    pairs = (words >> (4 * I)) & (one * 0x000F000F)
    if TYPE == tl.bfloat16:
        pairs = pairs ^ 0x43084308
    else:
        pairs = pairs ^ 0x64086408
    low = pairs.to(tl.int16).to(TYPE, bitcast=True)
    high = (pairs >> 16).to(tl.int16).to(TYPE, bitcast=True)
    return low, high
