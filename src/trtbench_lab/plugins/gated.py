"""Plugins of the gated feed-forward product, ``act(x) · gate``: `swiglu` (SiLU), `geglu` and `geglu_tanh` (GELU)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from .frame import Call, Launch, Operand, Plugin, cdiv
from .quantizing import FLOATS

BLOCK = 1024
"""Elements of a row that one program computes."""
SILU, GELU, GELU_TANH = 0, 1, 2

# Lines that turn `wide` (float32) into `active`. The activation is computed in float32 and rounded once, as torch does.
_SILU_BODY = """
    gate_of_x = Sigmoid (wide)
    active = Mul (wide, gate_of_x)"""
_PRODUCT_BODY = """
    rounded = CastLike (active, x)
    y = Mul (rounded, gate)"""
_GELU_BODY = """
    active = Gelu <approximate = "{approximate}"> (wide)"""


def _plan(activation: int) -> Callable[[Call], Launch]:
    def plan(call: Call) -> Launch:
        x, gate = call.inputs
        gate.demand("gate", *x.shape)
        width = x.fixed(-1)
        constants = {"W": width, "BLOCK": BLOCK, "ACTIVATION": activation}
        return Launch("gated", (x.rows, cdiv(width, BLOCK)), constants=constants, num_warps=4)

    return plan


def _plugin(
    name: str, op_type: str, activation: int, function: Callable[[torch.Tensor], torch.Tensor], body: str
) -> Plugin:
    def reference(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """The activation of `x` (…, width), rounded to its type, times `gate`."""
        return function(x) * gate

    return Plugin(
        name=name,
        op_type=op_type,
        inputs=("x", "gate"),
        outputs=("y",),
        attributes={},
        types=tuple((dtype,) * 3 for dtype in FLOATS),
        reference=reference,
        results=lambda operands, attributes: (Operand(operands[0].shape, operands[0].dtype),),
        plan=_plan(activation),
        kernels="gated",
        onnx_body=f"    wide = Cast <to = 1> (x){body}{_PRODUCT_BODY}",
        switches=("swiglu_plugin",),
        replaces="activation and product of the gated feed-forward block",
    )


SWIGLU = _plugin("swiglu", "SwiGlu", SILU, F.silu, _SILU_BODY)
GEGLU = _plugin("geglu", "GeGlu", GELU, F.gelu, _GELU_BODY.format(approximate="none"))
GEGLU_TANH = _plugin(
    "geglu_tanh", "GeGluTanh", GELU_TANH, lambda x: F.gelu(x, approximate="tanh"), _GELU_BODY.format(approximate="tanh")
)
PLUGINS = (SWIGLU, GEGLU, GEGLU_TANH)
