"""Plugins that quantize activations to INT8, with a scale a token or with one scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .frame import Attributes, Call, Launch, Operand, Plugin, power_of_two

FLOATS = ("float16", "bfloat16", "float32")
LARGEST = 127
"""Largest magnitude of an integer: quantization is symmetric, without −128."""
SMALLEST_SCALE = torch.finfo(torch.float32).tiny

# Lines of an ONNX function: y (float) → q (int8) and scale (float32).
TOKENWISE_BODY = """
    wide_y = Cast <to = 1> (y)
    magnitude = Abs (wide_y)
    last = Constant <value_ints = [-1]> ()
    largest = ReduceMax <keepdims = 1> (magnitude, last)
    most = Constant <value_float = 127.0> ()
    smallest = Constant <value_float = 1.1754943508222875e-38> ()
    one = Constant <value_float = 1.0> ()
    ratio = Div (largest, most)
    is_zero = Less (ratio, smallest)
    scale = Where (is_zero, one, ratio)
    scaled = Div (wide_y, scale)
    rounded = Round (scaled)
    q = Cast <to = 3> (rounded)"""
STATIC_BODY = """
    wide_y = Cast <to = 1> (y)
    scaled = Div (wide_y, scale)
    rounded = Round (scaled)
    most = Constant <value_float = 127.0> ()
    least = Constant <value_float = -127.0> ()
    clipped = Clip (rounded, least, most)
    q = Cast <to = 3> (clipped)"""


def quantize_per_token(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize each token by its own scale.

    Parameters
    ----------
    x
        (…, width), float.

    Returns
    -------
    INT8 (…, width), and float32 scales (…, 1): the token's largest magnitude over 127, or 1 where all is zero.
    ``q · scale`` is near `x`.
    """
    wide = x.float()
    scale = wide.abs().amax(-1, keepdim=True) / LARGEST
    scale = torch.where(scale < SMALLEST_SCALE, 1.0, scale)
    return (wide / scale).round().to(torch.int8), scale


def quantize_tensor(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Quantize by a given scale: x (…, width) float, scale (1,) float32 → INT8, half to even, within ±127."""
    return (x.float() / scale).round().clamp(-LARGEST, LARGEST).to(torch.int8)


def _per_token_results(operands: Sequence[Operand], attributes: Attributes) -> tuple[Operand, ...]:
    (x,) = operands
    return Operand(x.shape, "int8"), Operand((*x.shape[:-1], 1), "float32")


def _plan(kernel: str, call: Call) -> Launch:
    x = call.inputs[0]
    width = x.fixed(-1)
    block = power_of_two(width)
    constants = {"W": width, "BLOCK": block}
    return Launch(kernel, (x.rows,), constants=constants, num_warps=row_warps(block))


def row_warps(block: int) -> int:
    """Warps for a program that keeps one row of `block` elements: 16 elements a thread, as two loads of 16 bytes."""
    return min(16, max(1, block // 512))


QUANTIZE_PER_TOKEN = Plugin(
    name="quantize_per_token",
    op_type="QuantizePerToken",
    inputs=("x",),
    outputs=("q", "scale"),
    attributes={},
    types=tuple((dtype, "int8", "float32") for dtype in FLOATS),
    reference=quantize_per_token,
    results=_per_token_results,
    plan=lambda call: _plan("quantize_per_token", call),
    kernels="quantizing",
    onnx_body="    y = Identity (x)" + TOKENWISE_BODY,
    switches=("quantize_per_token_plugin",),
    replaces="absolute maximum, division, rounding and cast of SmoothQuant's activations, a scale a token",
)
QUANTIZE_TENSOR = Plugin(
    name="quantize_tensor",
    op_type="QuantizeTensor",
    inputs=("x", "scale"),
    outputs=("q",),
    attributes={},
    types=tuple((dtype, "float32", "int8") for dtype in FLOATS),
    reference=quantize_tensor,
    results=lambda operands, attributes: (Operand(operands[0].shape, "int8"),),
    plan=lambda call: _plan("quantize_tensor", call),
    kernels="quantizing",
    onnx_body="    y = Identity (x)" + STATIC_BODY,
    switches=("quantize_tensor_plugin",),
    replaces="division, rounding and cast of SmoothQuant's activations, one scale for the tensor",
)

PLUGINS = (QUANTIZE_PER_TOKEN, QUANTIZE_TENSOR)
