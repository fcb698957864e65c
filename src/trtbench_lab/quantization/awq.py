"""AWQ: scale the input features that matter before 4-bit rounding, and clip groups where that helps (Lin et al., 2024).

A layer's weight is multiplied by s along its input features before it is rounded, and its inputs by 1 / s as the engine
runs (``prequant_scaling_factor``)::

    s_j = mean|x_j|^a, scaled so that max(s) · min(s) = 1          a of a grid in [0, 1]
    a   = argmin ‖ Q(W · diag(s)) diag(s)⁻¹ X − W X ‖²             on a sample of the calibration tokens

Then the range of each group of each output channel is shrunk by the factor of a grid that gives the least squared
error of that group's part of the output. Rounding is that of `weight_only`: no zero point.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .inputs import LayerInputs
from .weight_only import WeightOnlyScheme, dequantize, quantize

EXPONENTS = tuple(step / 20 for step in range(20))
SHRINKS = tuple(1 - step / 20 for step in range(11))
"""From the whole range down to half of it."""
CLIP_TOKENS = 256
_ROWS = 256


@dataclass(frozen=True)
class AwqWeight:
    """A layer after the search.

    Attributes
    ----------
    packed, scales
        As `weight_only.quantize` gives them.
    inputs_scale
        (in,): inputs are multiplied by it first.
    exponent
        The a that was chosen.
    """

    packed: torch.Tensor
    scales: torch.Tensor
    inputs_scale: torch.Tensor
    exponent: float


def awq(
    weight: torch.Tensor, inputs: LayerInputs, scheme: WeightOnlyScheme, *, scale_dtype: torch.dtype, clip: bool = True
) -> AwqWeight:
    """Quantize a layer.

    Parameters
    ----------
    weight
        (out, in), any floating type.
    inputs
        Statistics of its inputs.
    scheme
        4 bits with groups.
    scale_dtype
        Type of the scales in the checkpoint; what is rounded is rounded with the stored ones.
    clip
        Also search for the clipping of each group.
    """
    weight = weight.float()
    sample = inputs.sample  # (n, in)
    wanted = sample @ weight.t()
    best = float("inf")
    chosen = torch.ones(weight.shape[1])
    exponent = 0.0
    for candidate in EXPONENTS:
        factors = _factors(inputs.mean_abs, candidate).to(scale_dtype).float()
        packed, scales = quantize(weight * factors, scheme, scale_dtype=scale_dtype, name=inputs.name)
        restored = dequantize(packed, scales, scheme, dtype=torch.float32)
        error = float((((sample / factors) @ restored.t()) - wanted).square().sum())
        if error < best:
            best, chosen, exponent = error, factors, candidate
    scaled = weight * chosen
    if clip:
        scaled = clipped(scaled, sample / chosen, scheme)
    packed, scales = quantize(scaled, scheme, scale_dtype=scale_dtype, name=inputs.name)
    return AwqWeight(packed, scales, (1 / chosen).to(scale_dtype), exponent)


def clipped(weight: torch.Tensor, sample: torch.Tensor, scheme: WeightOnlyScheme) -> torch.Tensor:
    """Return the weight (out, in) with each group's range shrunk to where its part of the output is nearest."""
    out_features, in_features = weight.shape
    group = scheme.group_size or in_features
    parts = sample[:: max(1, len(sample) // CLIP_TOKENS)].view(-1, in_features // group, group)  # (n, groups, group)
    # The squared error of a group's part of the output is d G dᵀ with G = xᵀ x of the group: no sample in the loop.
    grams = torch.einsum("ngi,ngj->gij", parts, parts)  # (groups, group, group)
    found = torch.empty_like(weight)
    for start in range(0, out_features, _ROWS):
        rows = weight[start : start + _ROWS].view(-1, in_features // group, group)
        limits = rows.abs().amax(-1, keepdim=True)
        best = torch.full(limits.shape, float("inf"))
        result = rows.clone()
        for shrink in SHRINKS:
            candidate = rows.clamp(-limits * shrink, limits * shrink)
            flat = candidate.reshape(-1, in_features)
            packed, scales = quantize(flat, scheme, scale_dtype=torch.float32)
            difference = dequantize(packed, scales, scheme).view_as(rows) - rows
            error = torch.einsum("ogi,gij,ogj->og", difference, grams, difference)[..., None]
            better = error < best
            best = torch.where(better, error, best)
            result = torch.where(better, candidate, result)
        found[start : start + _ROWS] = result.view(-1, in_features)
    return found


def _factors(mean_abs: torch.Tensor, exponent: float) -> torch.Tensor:
    factors = mean_abs.clamp_min(1e-8).pow(exponent)
    return (factors / (factors.amax() * factors.amin()).sqrt()).clamp(1e-4, 1e4)
