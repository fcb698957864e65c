"""What the row kernels share: activations and the norm of a row in registers."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def activation(x, ACT: tl.constexpr):
    """Apply activation number `ACT` of the matrix plugins to float32 values."""
    if ACT == 1:
        inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        x = x * tl.sigmoid(2.0 * inner)  # = 0.5 x (1 + tanh(inner))
    elif ACT == 2:
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif ACT == 3:
        x = x * tl.sigmoid(x)
    elif ACT == 4:
        x = tl.maximum(x, 0.0)
    elif ACT == 5:
        x = tl.maximum(x, 0.0)
        x = x * x
    return x


@triton.jit
def row_statistics(x, inside, WIDTH: tl.constexpr, eps, NORM: tl.constexpr):
    """Mean and reciprocal deviation of the rows of float32 x (rows, padded width); `inside` is False in padding."""
    if NORM == 2:
        mean = tl.sum(x, axis=1) / WIDTH
        centred = tl.where(inside, x - mean[:, None], 0.0)
        return mean, tl.rsqrt(tl.sum(centred * centred, axis=1) / WIDTH + eps)
    else:
        square = tl.sum(x * x, axis=1) / WIDTH
        return tl.zeros_like(square), tl.rsqrt(square + eps)


@triton.jit
def normalised(x, mean, rstd, weight, bias, NORM: tl.constexpr):
    """Apply a norm to float32 x, rounding where PyTorch's modules round; weight and bias in the model's type."""
    y = (x - mean) * rstd
    if NORM == 2:
        y = y * weight.to(tl.float32) + bias.to(tl.float32)
        return y.to(weight.dtype)
    else:
        return (y.to(weight.dtype) * weight).to(weight.dtype)
