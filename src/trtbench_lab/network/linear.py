"""Linear layers: plain or quantized, whole or split over tensor-parallel ranks."""

from __future__ import annotations

import torch
from torch import nn

from ..plugins.frame import Plugin
from ..plugins.matmul.plugins import GEMM, GEMM_BIAS
from ..quantization.linear_kinds import COMPUTED, LinearKind
from ..quantization.weight_only import WeightOnlyScheme
from . import ops
from .communicator import Communicator
from .quantized_product import plugin_for, quantized_product


class Linear(nn.Module):
    """``y = x Wᵀ + b`` with W stored (out_features, in_features), as checkpoints have it.

    Sizes are those of this rank. The weight may be any memory layout of that shape: a transposed view of a stored
    (in, out) array makes a matrix-vector product on a CPU 1.6-1.8 × as fast (15 against 24 GB/s on two cores).

    Parameters
    ----------
    in_features, out_features
        Extents on this rank.
    bias
        Whether there is a bias.
    kind
        How the layer is quantized, or None; its tensors are the layer's parameters.
    reduce
        Set for a layer split by input: partial products are summed over it, then the bias is added once.
    use_plugin
        Compute with the plugin of the project's own kernels, where one takes this kind and these extents.

    Attributes
    ----------
    plugin
        The plugin that a quantized layer's product is computed with, or None.
    keeps
        Parameters that keep their type whatever is computed in.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool,
        kind: LinearKind | None = None,
        reduce: Communicator | None = None,
        use_plugin: bool = False,
    ):
        super().__init__()
        self.in_features, self.out_features, self.kind, self.reduce = in_features, out_features, kind, reduce
        self.use_plugin = use_plugin
        self.plugin: Plugin | None = None
        self.keeps: tuple[str, ...] = ()
        if kind is None:
            self.weight = nn.Parameter(torch.empty(out_features, in_features), requires_grad=False)
        else:
            self.plugin = plugin_for(kind, in_features) if use_plugin else None
            self._add_tensors(kind)
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None

    @property
    def scheme(self) -> WeightOnlyScheme | None:
        """How the weight is stored, of a layer that multiplies by dequantized weights; else None."""
        return None if self.kind is None else self.kind.scheme

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind is None and self.reduce is None:
            if not self.use_plugin:
                return ops.linear(x, self.weight, self.bias)
            return GEMM(x, self.weight) if self.bias is None else GEMM_BIAS(x, self.weight, self.bias)
        if self.kind is None:
            y = GEMM(x, self.weight) if self.use_plugin else ops.linear(x, self.weight, None)
        else:
            y = quantized_product(x, self.kind, self._parameters, self.plugin)
        if self.reduce is not None:
            y = self.reduce.all_reduce(y)
        return y if self.bias is None else y + self.bias

    def _add_tensors(self, kind: LinearKind) -> None:
        kept = []
        for tensor in kind.tensors(self.out_features, self.in_features):
            dtype = torch.get_default_dtype() if tensor.dtype == COMPUTED else getattr(torch, tensor.dtype)
            if tensor.suffix == "zero" and self.plugin is not None:  # kernels subtract integers
                dtype = torch.int8
            if tensor.dtype != COMPUTED:
                kept.append(tensor.suffix)
            content = torch.empty(tensor.shape, dtype=dtype)
            self.register_parameter(tensor.suffix, nn.Parameter(content, requires_grad=False))
        self.keeps = tuple(kept)
