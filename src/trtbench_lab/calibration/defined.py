"""A decoder that computes what a quantized checkpoint stands for, by definition and in float32.

Integer products are integer products, FP8 inputs are rounded to FP8, and a quantized K/V cache is rounded wherever it
is read. It is what backends are held against, and no faster than it must be.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf

import torch
from torch import nn

from ..checkpoint.layout import linear_layers, whole_tensors
from ..checkpoint.quantized_layout import KV_SCALE, linear_tensors
from ..checkpoint.reader import Checkpoint
from ..network import ops
from ..network.attention import Attention
from ..network.decoder import Decoder
from ..network.loading import assign_tensors
from ..quantization.fp8 import rounded_to_fp8
from ..quantization.joining import whole_from_ranks
from ..quantization.reference import layer_output
from ..quantization.smoothquant import LARGEST as INT8_LARGEST
from ..specs import Mapping, ModelConfig, QuantAlgo, QuantConfig
from .layers import decoder_tables


class DefinedLinear(nn.Module):
    """A quantized linear layer by definition.

    Parameters
    ----------
    tensors
        The layer's tensors by the last part of their names.
    algo
        Its algorithm.
    bias
        (out,) or None.
    divided
        (in,) SmoothQuant factors that a norm would have taken out of the inputs; None where the norm did.
    """

    def __init__(
        self,
        tensors: MappingOf[str, torch.Tensor],
        algo: QuantAlgo,
        bias: torch.Tensor | None,
        *,
        divided: torch.Tensor | None = None,
    ):
        super().__init__()
        self.tensors = {name: tensor for name, tensor in tensors.items() if name != "bias"}
        self.algo, self.divided = algo, divided
        self.bias = None if bias is None else bias.float()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.divided is not None:
            x = x / self.divided
        y = layer_output(x, self.tensors, self.algo)
        return y if self.bias is None else y + self.bias


class RoundedCacheAttention(Attention):
    """Attention over keys and values as a quantized cache gives them back.

    Attributes
    ----------
    cache_step, cache_algo
        What one unit of the cache is worth; INT8 or FP8.
    """

    cache_step: float
    cache_algo: QuantAlgo

    def _attended(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        return ops.attention(query, self._rounded(key), self._rounded(value), mask)

    def _rounded(self, x: torch.Tensor) -> torch.Tensor:
        if self.cache_algo is QuantAlgo.INT8:
            return torch.round(x / self.cache_step).clamp_(-INT8_LARGEST, INT8_LARGEST) * self.cache_step
        return rounded_to_fp8(x / self.cache_step).float() * self.cache_step


def defined_decoder(checkpoint: Checkpoint) -> tuple[Decoder, ModelConfig, int]:
    """Return the decoder of a checkpoint (of any ranks, joined), its configuration without quantization, and its bytes.

    The bytes are those of the weights as the checkpoint stores them, each once.
    """
    stored = checkpoint.config.replace(mapping=Mapping())
    quant = stored.quantization
    plain = stored.replace(quantization=QuantConfig(), dtype="float32")
    with torch.device("meta"):
        decoder = Decoder(plain, Mapping())
    modules = {name for name, *_ in linear_layers(stored) if quant.of_module(name).quant_algo is not None}
    plain_tensors: dict[str, torch.Tensor] = dict(decoder_tables(decoder))
    quantized: dict[str, dict[str, torch.Tensor]] = {}
    steps: dict[str, float] = {}
    stored_bytes = 0
    for tensor in whole_tensors(stored):
        content = whole_from_ranks(checkpoint, tensor)[: tensor.shape[0]]
        stored_bytes += content.nbytes
        module, _, leaf = tensor.name.rpartition(".")
        if module in modules:
            quantized.setdefault(module, {})[leaf] = content
        elif tensor.name.endswith(KV_SCALE):
            steps[module] = float(content)
        else:
            plain_tensors[tensor.name] = content.float()
    assign_tensors(decoder, plain_tensors)
    for module, tensors in quantized.items():
        algo = quant.of_module(module).quant_algo
        assert algo is not None  # noqa: S101
        replace_module(decoder, module, DefinedLinear(tensors, algo, tensors.get("bias")))
    for module, step in steps.items():
        attention = decoder.get_submodule(module)
        attention.__class__ = RoundedCacheAttention
        attention.cache_step, attention.cache_algo = step, quant.kv_cache_quant_algo  # type: ignore[assignment]
    return decoder.eval(), plain, stored_bytes


def replace_module(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put `module` in the place of the one at `path`."""
    parent, _, leaf = path.rpartition(".")
    setattr(root.get_submodule(parent), leaf, module)


def tensor_bytes(quant: QuantConfig, module: str, shape: tuple[int, int], dtype: str) -> int:
    """Return the bytes of a linear layer's tensors, without the bias, as a checkpoint stores them."""
    total = 0
    for tensor in linear_tensors(quant, module, shape, dtype):
        count = 1
        for extent in tensor.shape:
            count *= extent
        total += count * getattr(torch, tensor.dtype).itemsize
    return total
