"""AWQ: scale the input features that matter before 4-bit rounding, and clip groups where that helps (Lin et al., 2024).

A layer's weight is multiplied by s along its input features before it is rounded, and its inputs by 1 / s as the engine
runs (``prequant_scaling_factor``)::

    s_j = mean|x_j|^a, scaled so that max(s) · min(s) = 1          a of a grid in [0, 1]
    a   = argmin ‖ Q(W · diag(s)) diag(s)⁻¹ X − W X ‖²             on a sample of the calibration tokens

Then the range of each group of each output channel is shrunk by the factor of a grid that gives the least squared
error of that group's part of the output. Queries and keys keep their ranges: they meet in a product, so that the
nearest output of each alone is not the nearest score. Rounding is that of `weight_only`: no zero point.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .inputs import LayerInputs
from .weight_only import WeightOnlyScheme, levels, positive, quantize, stored_scales

EXPONENTS = tuple(step / 20 for step in range(20))
SHRINKS = tuple(1 - step / 20 for step in range(11))
"""From the whole range down to half of it."""
CLIP_TOKENS = 256
_BLOCK_ELEMENTS = {"cpu": 1 << 18}
"""Weights tried at a time: 1 MB in float32, and rounding them twenty times over stays in a core's cache."""
_LARGE_BLOCK = 1 << 26
"""Elsewhere, where starting a kernel takes as long as rounding a million weights does: 256 MB."""


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
    weight: torch.Tensor,
    inputs: LayerInputs,
    scheme: WeightOnlyScheme,
    *,
    scale_dtype: torch.dtype,
    clip: bool = True,
    clip_from: int = 0,
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
    clip_from
        The first output channel that may be clipped: those of queries and keys before it are not.
    """
    weight = weight.float()
    sample = inputs.sample  # (n, in)
    grid = torch.stack([_factors(inputs.mean_abs, one).to(scale_dtype).float() for one in EXPONENTS])  # (20, in)
    best = int(_search_errors(weight, sample, grid, scheme, scale_dtype).argmin())  # the first of equals
    chosen = grid[best]
    scaled = weight * chosen
    if clip:
        scaled[clip_from:] = clipped(scaled[clip_from:], sample / chosen, scheme)
    packed, scales = quantize(scaled, scheme, scale_dtype=scale_dtype, name=inputs.name)
    return AwqWeight(packed, scales, (1 / chosen).to(scale_dtype), EXPONENTS[best])


def _search_errors(
    weight: torch.Tensor,
    sample: torch.Tensor,
    grid: torch.Tensor,
    scheme: WeightOnlyScheme,
    scale_dtype: torch.dtype,
) -> torch.Tensor:
    """Return the squared error of outputs on `sample` (n, in) with each row of factors of `grid` (candidates, in)."""
    out_features, in_features = weight.shape
    errors = torch.zeros(len(grid), dtype=torch.float64, device=weight.device)
    rows = max(1, _BLOCK_ELEMENTS.get(weight.device.type, _LARGE_BLOCK) // in_features)
    for start in range(0, out_features, rows):
        block = weight[start : start + rows]
        for candidate, factors in enumerate(grid):
            grouped = (block * factors).view(len(block), -1, scheme.group_size or in_features)
            scales = stored_scales(grouped, scheme.bits, scale_dtype)
            restored = levels(grouped, scales, scheme.bits).mul_(scales).view_as(block)
            # (X / s) (Q(W s))ᵀ − X Wᵀ = X (Q(W s) / s − W)ᵀ: one product instead of two.
            difference = restored.div_(factors).sub_(block)
            errors[candidate] += (sample @ difference.t()).square_().sum()
    return errors


def clipped(weight: torch.Tensor, sample: torch.Tensor, scheme: WeightOnlyScheme) -> torch.Tensor:
    """Return the weight (out, in) with each group's range shrunk to where its part of the output is nearest."""
    out_features, in_features = weight.shape
    group = scheme.group_size or in_features
    parts = sample[:: max(1, len(sample) // CLIP_TOKENS)].view(-1, in_features // group, group)  # (n, groups, group)
    # The squared error of a group's part of the output is d G dᵀ with G = xᵀ x of the group: no sample in the loop.
    grams = torch.einsum("ngi,ngj->gij", parts, parts)  # (groups, group, group)
    found = torch.empty_like(weight)
    rows = max(1, _BLOCK_ELEMENTS.get(weight.device.type, _LARGE_BLOCK) // in_features)
    for start in range(0, out_features, rows):
        block = weight[start : start + rows].view(-1, in_features // group, group).transpose(0, 1).contiguous()
        limits = block.abs().amax(-1, keepdim=True)  # (groups, rows, 1)
        best = torch.full_like(limits, float("inf"))
        chosen = limits.clone()
        for shrink in SHRINKS:
            scales = positive(limits * (shrink / (1 << (scheme.bits - 1))))
            difference = levels(block, scales, scheme.bits).mul_(scales).sub_(block)  # clips to the shrunk range
            error = (torch.bmm(difference, grams) * difference).sum(-1, keepdim=True)
            better = error < best
            best = torch.where(better, error, best)
            chosen = torch.where(better, limits * shrink, chosen)
        found[start : start + rows] = block.clamp(-chosen, chosen).transpose(0, 1).reshape(-1, in_features)
    return found


def _factors(mean_abs: torch.Tensor, exponent: float) -> torch.Tensor:
    factors = mean_abs.clamp_min(1e-8).pow(exponent)
    return (factors / (factors.amax() * factors.amin()).sqrt()).clamp(1e-4, 1e4)
