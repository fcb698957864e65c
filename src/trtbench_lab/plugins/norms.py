"""Plugins of RMS norm and layer norm: alone, with the residual sum before them, and with INT8 results.

Twelve plugins of one making. ``add_`` sums the residual first and gives the sum as the last output. ``_per_token`` and
``_static`` quantize the normed values (see `plugins.quantizing`), for SmoothQuant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from .frame import Attributes, Call, Launch, Operand, Plugin, power_of_two
from .quantizing import FLOATS, STATIC_BODY, TOKENWISE_BODY, quantize_per_token, quantize_tensor, row_warps


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Scale the last dimension to unit root mean square in float32, round to the type of `x`, multiply by `weight`."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)).to(x.dtype)


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Bring the last dimension to mean 0 and variance 1, then multiply by `weight` and add `bias`, all in float32."""
    return F.layer_norm(x.float(), weight.shape, weight.float(), bias.float(), epsilon).to(x.dtype)


_KINDS: dict[str, tuple[str, Callable[..., torch.Tensor], tuple[str, ...], str]] = {
    "rms_norm": (
        "RmsNorm",
        rms_norm,
        ("weight",),
        "    y = RMSNormalization <axis = -1, epsilon: float = @epsilon> (total, weight)",
    ),
    "layer_norm": (
        "LayerNorm",
        layer_norm,
        ("weight", "bias"),
        "    y = LayerNormalization <axis = -1, epsilon: float = @epsilon> (total, weight, bias)",
    ),
}
_QUANTIZED = {"": "", "_per_token": "PerToken", "_static": "Static"}


def _reference(norm: Callable[..., torch.Tensor], add: bool, quantized: str) -> Callable[..., Any]:
    def reference(*tensors: torch.Tensor, epsilon: float) -> Any:
        x, *rest = tensors
        total = x + rest.pop(0) if add else x
        scale = rest.pop() if quantized == "_static" else None
        y = norm(total, *rest, epsilon)
        results: tuple[torch.Tensor, ...] = (y,)
        if quantized == "_per_token":
            results = quantize_per_token(y)
        elif scale is not None:
            results = (quantize_tensor(y, scale),)
        if add:
            results = (*results, total)
        return results if len(results) > 1 else results[0]

    return reference


def _results(add: bool, quantized: str) -> Callable[[Sequence[Operand], Attributes], tuple[Operand, ...]]:
    def results(operands: Sequence[Operand], attributes: Attributes) -> tuple[Operand, ...]:
        x = operands[0]
        found = [Operand(x.shape, "int8" if quantized else x.dtype)]
        if quantized == "_per_token":
            found.append(Operand((*x.shape[:-1], 1), "float32"))
        if add:
            found.append(Operand(x.shape, x.dtype))
        return tuple(found)

    return results


def _plan(kernel: str, add: bool, parameters: Sequence[str]) -> Callable[[Call], Launch]:
    def plan(call: Call) -> Launch:
        x, *others = call.inputs
        width = x.fixed(-1)
        if add:
            others.pop(0).demand("residual", *x.shape)
        for name, parameter in zip(parameters, others, strict=False):
            parameter.demand(name, width)
        block = power_of_two(width)
        constants = {"W": width, "BLOCK": block, "EPSILON": float(call.attributes["epsilon"])}
        return Launch(kernel, (x.rows,), constants=constants, num_warps=row_warps(block))

    return plan


def _plugin(kind: str, add: bool, quantized: str) -> Plugin:
    op_type, norm, parameters, body = _KINDS[kind]
    name = ("add_" if add else "") + kind + quantized
    inputs = ("x", *(("residual",) if add else ()), *parameters, *(("scale",) if quantized == "_static" else ()))
    outputs = ("q" if quantized else "y", *(("scale",) if quantized == "_per_token" else ()))
    outputs += ("total",) if add else ()
    lines = ["    total = Add (x, residual)" if add else "    total = Identity (x)", body]
    lines += [TOKENWISE_BODY] if quantized == "_per_token" else [STATIC_BODY] if quantized else []
    switch = kind.replace("_", "") + ("_quantization_plugin" if quantized else "_plugin")
    types = tuple(
        (
            *[dtype] * (1 + add + len(parameters)),
            *["float32"] * (quantized == "_static"),
            "int8" if quantized else dtype,
            *["float32"] * (quantized == "_per_token"),
            *[dtype] * add,
        )
        for dtype in FLOATS
    )
    what = "residual sum and " if add else ""
    after = ", and the quantization of the result" if quantized else ""
    return Plugin(
        name=name,
        op_type=("Add" if add else "") + op_type + _QUANTIZED[quantized],
        inputs=inputs,
        outputs=outputs,
        attributes={"epsilon": float},
        types=types,
        reference=_reference(norm, add, quantized),
        results=_results(add, quantized),
        plan=_plan(name, add, parameters),
        kernels="norms",
        onnx_body="\n".join(lines),
        switches=(switch,),
        replaces=f"{what}{'RMS' if kind == 'rms_norm' else 'layer'} norm{after}",
    )


PLUGINS = tuple(_plugin(kind, add, quantized) for kind in _KINDS for add in (False, True) for quantized in _QUANTIZED)
RMS_NORM, ADD_RMS_NORM = (next(one for one in PLUGINS if one.name == name) for name in ("rms_norm", "add_rms_norm"))
LAYER_NORM, ADD_LAYER_NORM = (
    next(one for one in PLUGINS if one.name == name) for name in ("layer_norm", "add_layer_norm")
)
