"""What happens to a quantized product's inputs before the product: order, factors, and rounding to 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ....plugins.frame.contiguous import check_contiguous
from ....plugins.matmul import launch as matmul
from ....plugins.matmul import reference
from ....plugins.matmul.launch import Norm
from ....quantization.fp8 import LARGEST, rounded_to_fp8, through_fp8
from ....quantization.smoothquant import integer_inputs

_TO_CODES = {None: 0, "int8": 1, "fp8": 2, "through_fp8": 3}


@dataclass(frozen=True)
class Inputs:
    """How inputs (N, in) are prepared.

    Attributes
    ----------
    to
        ``"int8"``, ``"fp8"``, ``"through_fp8"`` (rounded to FP8 and back, W4A8) or None.
    step
        (1,) float32, what one unit is worth; None where each token has its own.
    divisor
        (in,) float32: SmoothQuant's smoother, where no norm took it in.
    factor
        (in,), multiplied in: AWQ's scale.
    order
        (in,) int32: which feature each stored column of the weight multiplies (GPTQ's act-order).
    apart
        Whether a kernel of its own prepares them; else the products' kernels do it themselves.
    """

    to: str | None = None
    step: torch.Tensor | None = None
    divisor: torch.Tensor | None = None
    factor: torch.Tensor | None = None
    order: torch.Tensor | None = None
    apart: bool = True

    def same_as(self, other: Inputs) -> bool:
        """Whether two layers that read the same inputs prepare them alike."""
        if (self.to, self.apart) != (other.to, other.apart):
            return False
        pairs = [(getattr(self, name), getattr(other, name)) for name in ("step", "divisor", "factor", "order")]
        return all(
            (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs
        )


def prepare(
    x: torch.Tensor, inputs: Inputs, norm: Norm | None, kernels: Any | None, options: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the prepared inputs, and the steps (N,) float32 where each token has its own.

    Parameters
    ----------
    x
        (N, in), contiguous for the kernel.
    inputs
        What to do.
    norm
        Applied first, or None.
    kernels
        The module of the kernel, or None to compute by the definitions.
    options
        Launch options.
    """
    if kernels is None:
        return _defined(x, inputs, norm)
    from . import ops

    check_contiguous("prepare", x=x, order=inputs.order, divisor=inputs.divisor, factor=inputs.factor)
    rows, width = x.shape
    types = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
    out = torch.empty_like(x, dtype=types.get(inputs.to or "", x.dtype))
    per_token = inputs.to is not None and inputs.step is None
    steps = x.new_empty(rows, dtype=torch.float32) if per_token else None
    padded = ops.power_of_two(width)
    ops.launch(
        kernels.prepare_inputs_kernel,
        (rows,),
        (
            x,
            None if norm is None else norm.weight,
            None if norm is None else norm.bias,
            inputs.order,
            inputs.divisor,
            inputs.factor,
            inputs.step,
            out,
            steps,
            0.0 if norm is None else norm.epsilon,
        ),
        WIDTH=width,
        WIDTH_PADDED=padded,
        NORM=matmul.NORM_CODES[None if norm is None else norm.kind],
        TO=_TO_CODES[inputs.to],
        num_warps=min(8, max(1, padded // 512)),
        **options,
    )
    return out, steps


def _defined(x: torch.Tensor, inputs: Inputs, norm: Norm | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    if norm is not None:
        x = reference.normalize(x, norm)
    if inputs.order is not None:
        x = x.index_select(1, inputs.order)
    if inputs.divisor is not None:
        x = (x.float() / inputs.divisor).to(x.dtype)
    if inputs.factor is not None:
        x = x * inputs.factor.to(x.dtype)
    if inputs.to is None:
        return x, None
    if inputs.to == "through_fp8":
        assert inputs.step is not None  # noqa: S101 - part of the kind
        return through_fp8(x, inputs.step), None
    if inputs.to == "int8":
        integers, steps = integer_inputs(x, inputs.step)
        return integers, steps.flatten() if inputs.step is None else None
    wide = x.float()
    if inputs.step is not None:
        return rounded_to_fp8(wide / inputs.step), None
    largest = wide.abs().amax(1, keepdim=True)
    steps = torch.where(largest > 0, largest / LARGEST, 1.0)
    return rounded_to_fp8(wide / steps), steps.flatten()
