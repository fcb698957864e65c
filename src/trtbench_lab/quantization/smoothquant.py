"""SmoothQuant: move the activations' outliers into the weights, then make both integers (Xiao et al., 2023).

For input feature j, with the largest |x_j| over the calibration text and the largest |w_j| over all layers that read
the same input::

    s_j = max|x_j|^α / max|w_j|^(1 − α)          X' = X · diag(s)⁻¹          W' = diag(s) · W

Where a norm lies before the layer, its weight (and bias) are divided by s once and for all; elsewhere the checkpoint
keeps s as ``smoother``. Then, symmetric and without −128::

    step_w = max|W'| / 127                       per tensor, or per output channel
    step_x = max|X'| / 127                       per tensor from the calibration text, or per token as the engine runs
    y      = step_x · step_w · (round(X' / step_x) · round(W' / step_w))         accumulated in int32
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .inputs import LayerInputs

LARGEST = 127
_SMALLEST_FACTOR = 1e-5
_EXACT_FEATURES = 1024
"""Sums of this many products of integers up to 127 and 128 stay below 2²⁴: float32 holds every one of them exactly."""


@dataclass(frozen=True)
class IntegerWeight:
    """A weight as integers.

    Attributes
    ----------
    integers
        (out, in) int8 in −127 … 127.
    steps
        (out,) or (1,) float32: what one unit is worth.
    """

    integers: torch.Tensor
    steps: torch.Tensor


def smoothing_factors(inputs: LayerInputs, weights: list[torch.Tensor], alpha: float) -> torch.Tensor:
    """Return s, (in,) float32 and positive, for layers of `weights` (out, in) that read the same inputs.

    A feature that is always zero, or that no layer uses, keeps 1.
    """
    weight_largest = torch.stack([weight.float().abs().amax(0) for weight in weights]).amax(0)
    largest = inputs.largest
    factors = largest.pow(alpha) / weight_largest.pow(1 - alpha)
    usable = (largest > 0) & (weight_largest > 0) & torch.isfinite(factors)
    return torch.where(usable, factors, 1.0).clamp_min(_SMALLEST_FACTOR)


def integer_weight(weight: torch.Tensor, *, per_channel: bool) -> IntegerWeight:
    """Round a weight (out, in) to integers with one step, or one an output channel."""
    wide = weight.float()
    largest = wide.abs().amax(1) if per_channel else wide.abs().amax().reshape(1)
    steps = torch.where(largest > 0, largest / LARGEST, 1.0)
    integers = torch.round(wide / steps[:, None]).clamp_(-LARGEST, LARGEST).to(torch.int8)
    return IntegerWeight(integers, steps)


def activation_step(inputs: LayerInputs, factors: torch.Tensor) -> torch.Tensor:
    """Return the static step of the smoothed inputs, (1,) float32."""
    largest = (inputs.largest / factors).amax().reshape(1)
    return torch.where(largest > 0, largest / LARGEST, 1.0)


def integer_inputs(x: torch.Tensor, step: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Round inputs (…, in) to integers.

    Parameters
    ----------
    step
        (1,) float32, the static step; None finds one for each token.

    Returns
    -------
    integers : int8 (…, in)
    steps : float32 (1,) or (…, 1)
    """
    wide = x.float()
    if step is None:
        largest = wide.abs().amax(-1, keepdim=True)
        step = torch.where(largest > 0, largest / LARGEST, 1.0)
    return torch.round(wide / step).clamp_(-LARGEST, LARGEST).to(torch.int8), step


def integer_product(
    x: torch.Tensor, weight: torch.Tensor, weight_steps: torch.Tensor, x_step: torch.Tensor | None
) -> torch.Tensor:
    """Return the layer's output by definition: integers multiplied and summed in int32, then both steps.

    Parameters
    ----------
    x
        (…, in) smoothed inputs, any floating type.
    weight, weight_steps
        int8 (out, in); float32 (out,) or (1,).
    x_step
        (1,) float32, or None for a step a token.

    Returns
    -------
    (…, out) in the type of x
    """
    integers, steps = integer_inputs(x, x_step)
    flat = integers.flatten(0, -2)
    if x.device.type == "cpu":
        total = _int32_product(flat, weight)
    else:
        total = (flat.double() @ weight.t().double()).to(torch.int32)  # exact: below 2^53
    total = total.unflatten(0, integers.shape[:-1])
    return (total.float() * (steps * weight_steps)).to(x.dtype)


def _int32_product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return x (n, in) by weight (out, in), int8 both, as int32 (n, out): bit for bit the sums of the integer products.

    `torch._int_mm` gives the same numbers, but without VNNI it is a plain loop: 3.5 s for 1024³ against 0.07 s.
    """
    total = torch.zeros(len(x), len(weight), dtype=torch.int32, device=x.device)
    for start in range(0, x.shape[1], _EXACT_FEATURES):
        part = slice(start, start + _EXACT_FEATURES)
        total += (x[:, part].float() @ weight[:, part].float().t()).to(torch.int32)
    return total
