"""FP8 (E4M3) linear layers and cache scales.

A step makes the largest value the largest number: one a tensor, or one an output of weights and one a token of inputs.
"""

from __future__ import annotations

import torch

from .inputs import LayerInputs

LARGEST = 448.0
"""The largest finite E4M3 number."""


def fp8_step(largest: torch.Tensor) -> torch.Tensor:
    """Return the step for values up to `largest` (one element), (1,) float32."""
    largest = largest.reshape(1).float()
    return torch.where(largest > 0, largest / LARGEST, 1.0)


def fp8_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a weight (out, in) in float8_e4m3fn and its step (1,) float32."""
    step = fp8_step(weight.abs().amax())
    return rounded_to_fp8(weight.float() / step), step


def fp8_inputs_step(inputs: LayerInputs, inputs_scale: torch.Tensor | None = None) -> torch.Tensor:
    """Return the inputs' static step; `inputs_scale` (in,) multiplies them first (W4A8)."""
    largest = inputs.largest if inputs_scale is None else inputs.largest * inputs_scale.float()
    return fp8_step(largest.amax())


def rounded_to_fp8(x: torch.Tensor) -> torch.Tensor:
    """Round to E4M3, with larger values at its largest number: torch alone would make them NaN."""
    return x.clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)


def through_fp8(x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """Return x (…, in) as multiples of `step` (1,) that E4M3 has, in the type of x (W4A8's inputs)."""
    return (rounded_to_fp8(x.float() / step).float() * step).to(x.dtype)


def fp8_product(
    x: torch.Tensor, weight: torch.Tensor, weight_step: torch.Tensor, x_step: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the layer's output by definition: both rounded to E4M3, multiplied and summed in float32.

    Parameters
    ----------
    x
        (…, in), any floating type.
    weight
        float8_e4m3fn (out, in).
    weight_step
        (1,) or (out,) float32.
    x_step
        (1,) float32; None gives each token, (…, 1), the step of its own largest value.

    Returns
    -------
    (…, out) in the type of x
    """
    wide = x.float()
    if x_step is None:
        largest = wide.abs().amax(-1, keepdim=True)
        x_step = torch.where(largest > 0, largest / LARGEST, 1.0)
    rounded = rounded_to_fp8(wide / x_step).float()
    return ((rounded @ weight.float().t()) * (x_step * weight_step)).to(x.dtype)
