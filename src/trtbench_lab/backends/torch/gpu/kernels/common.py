"""What every kernel shares: launch options, the numbering of variants, and normalisation of a row in registers.

Kernels of a decode step are launched with programmatic dependent launch on Hopper and later: a kernel starts while the
one before it still runs, fetches the weights that depend on nothing, and only then waits for its input. That hides most
of the 1.2 µs that a kernel boundary costs in a graph.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

NORM_NONE, NORM_LAYER, NORM_RMS = 0, 1, 2
ACTIVATIONS = {None: 0, "gelu": 1, "gelu_tanh": 2, "relu": 3, "silu": 4, "squared_relu": 5}
QUANT_NONE, QUANT_INT8, QUANT_INT4, QUANT_FP8 = 0, 1, 2, 3


def uses_dependent_launch(device: torch.device) -> bool:
    """Whether the GPU (compute capability 9.0 on) starts a kernel before the one before it has ended."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 9


@triton.jit
def wait_for_input(PDL: tl.constexpr):
    """Let the next kernel start, and wait until everything that earlier kernels wrote is visible."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


@triton.jit
def activation(x, ACT: tl.constexpr):
    """Apply activation number `ACT` to float32 values."""
    if ACT == 1:
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif ACT == 2:
        inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        x = x * tl.sigmoid(2.0 * inner)  # = 0.5 x (1 + tanh(inner))
    elif ACT == 3:
        x = tl.maximum(x, 0.0)
    elif ACT == 4:
        x = x * tl.sigmoid(x)
    elif ACT == 5:
        x = tl.maximum(x, 0.0)
        x = x * x
    return x


@triton.jit
def row_statistics(x, inside, WIDTH: tl.constexpr, eps, NORM: tl.constexpr):
    """Mean and reciprocal deviation of the rows of x (rows, padded width), float32; `inside` is False in the padding."""
    if NORM == 1:
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
    if NORM == 1:
        y = y * weight.to(tl.float32) + bias.to(tl.float32)
        return y.to(weight.dtype)
    else:
        return (y.to(weight.dtype) * weight).to(weight.dtype)
