"""Normalisation over the hidden dimension: LayerNorm and RMSNorm, with or without the residual sum before them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..plugins.norms import ADD_LAYER_NORM, ADD_RMS_NORM, LAYER_NORM, RMS_NORM
from . import ops


class Norm(nn.Module):
    """A normalisation that may take the residual sum in.

    Parameters
    ----------
    width
        Size of the hidden dimension.
    epsilon
        Added to the variance.
    use_plugin
        Compute with the plugin: one pass over memory for the sum and the norm.
    """

    def __init__(self, width: int, epsilon: float, *, use_plugin: bool = False):
        super().__init__()
        self.epsilon, self.use_plugin = epsilon, use_plugin
        self.weight = nn.Parameter(torch.empty(width), requires_grad=False)

    def after_sum(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the norm of ``x + residual``, and that sum."""
        total = x + residual
        return self(total), total


class LayerNorm(Norm):
    """Mean and variance normalisation with weight and bias."""

    def __init__(self, width: int, epsilon: float, *, use_plugin: bool = False):
        super().__init__(width, epsilon, use_plugin=use_plugin)
        self.bias = nn.Parameter(torch.empty(width), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.use_plugin:
            return LAYER_NORM(x, self.weight, self.bias, epsilon=self.epsilon)
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)

    def after_sum(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.use_plugin:
            return ADD_LAYER_NORM(x, residual, self.weight, self.bias, epsilon=self.epsilon)
        return super().after_sum(x, residual)


class RmsNorm(Norm):
    """Root-mean-square normalisation with weight."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.use_plugin:
            return RMS_NORM(x, self.weight, epsilon=self.epsilon)
        return ops.rms_norm(x, self.weight, self.epsilon)

    def after_sum(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.use_plugin:
            return ADD_RMS_NORM(x, residual, self.weight, epsilon=self.epsilon)
        return super().after_sum(x, residual)


NORMS: dict[str, type[Norm]] = {"layernorm": LayerNorm, "rmsnorm": RmsNorm}
