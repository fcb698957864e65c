"""Kernel of the gated product ``act(x) · gate``: a block of one row a program, activation in float32."""

import triton
import triton.language as tl


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    if ACTIVATION == 0:
        active = x * tl.sigmoid(x)
    elif ACTIVATION == 1:
        active = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    else:
        # ½ (1 + tanh z) = sigmoid(2 z), with z = √(2/π) (x + 0.044715 x³)
        active = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    return active


@triton.jit
def gated(x_ptr, gate_ptr, y_ptr, W: tl.constexpr, BLOCK: tl.constexpr, ACTIVATION: tl.constexpr):
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    offsets = tl.program_id(0).to(tl.int64) * W + columns
    x = tl.load(x_ptr + offsets, mask=columns < W, other=0.0)
    gate = tl.load(gate_ptr + offsets, mask=columns < W, other=0.0)
    active = activate(x.to(tl.float32), ACTIVATION).to(x.dtype)
    tl.store(y_ptr + offsets, (active.to(tl.float32) * gate.to(tl.float32)).to(x.dtype), mask=columns < W)
