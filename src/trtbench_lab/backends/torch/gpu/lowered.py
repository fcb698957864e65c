"""The decoder lowered for a GPU: each layer as five fused products and one attention, over the decoder's own weights.

The network's modules stay the one definition: what is read here are their tensors, extents and traits, layer by layer, as
a compiler reads a graph. Tests hold the lowered form equal to the modules.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ....network.decoder import Decoder, DecoderLayer
from ....network.linear import Linear
from ....network.norm import LayerNorm, RmsNorm
from ....specs import ModelConfig


@dataclass(frozen=True)
class NormWeights:
    """A norm: ``kind`` is ``"layernorm"`` or ``"rmsnorm"``; weight and bias (width,), bias None for the latter."""

    kind: str
    weight: torch.Tensor
    bias: torch.Tensor | None
    epsilon: float


@dataclass(frozen=True)
class LinearWeights:
    """A linear layer, or a gated pair of them stacked along the outputs.

    Attributes
    ----------
    weight
        (out, in) in the type of the computation, (out, in) int8 or float8_e4m3fn, or (out, in / 2) int8 of 4-bit pairs.
        Gated: the activated half first, 2 · out rows.
    scale
        None; (out,) or a 0-d tensor; or (out, in / group). float types.
    bias
        (out,) or None.
    bits
        16 (plain, of any float type), 8 (int8 or float8) or 4.
    group_size
        Inputs that share a scale, None for one a channel or a tensor.
    gated
        Whether two layers are stacked.
    in_features, out_features
        Of one layer.
    """

    weight: torch.Tensor
    scale: torch.Tensor | None
    bias: torch.Tensor | None
    bits: int
    group_size: int | None
    gated: bool
    in_features: int
    out_features: int

    @property
    def nbytes(self) -> int:
        """Bytes that one use reads."""
        return self.weight.nbytes + (0 if self.scale is None else self.scale.nbytes)

    def signature(self) -> str:
        """What a timing of this product is good for, beside the number of tokens."""
        kind = str(self.weight.dtype).removeprefix("torch.") if self.bits > 4 else "int4"
        group = f"g{self.group_size}" if self.group_size else ""
        return f"{self.out_features}x{self.in_features}{'x2' if self.gated else ''}.{kind}{group}"


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer."""

    input_norm: NormWeights
    qkv: LinearWeights
    dense: LinearWeights
    post_norm: NormWeights
    fc: LinearWeights
    proj: LinearWeights
    kv_scale: float


@dataclass(frozen=True)
class LoweredModel:
    """The whole of one rank's decoder.

    Attributes
    ----------
    config
        The model.
    layers
        In order.
    embedding, position_embedding
        (vocabulary, hidden); (positions, hidden) or None.
    final_norm, head
        What makes logits.
    cos, sin
        (positions, R) rotary factors in the type of the computation, or None.
    activation
        Name of the MLP's activation, as `kernels.common.ACTIVATIONS` has it.
    """

    config: ModelConfig
    layers: tuple[LayerWeights, ...]
    embedding: torch.Tensor
    position_embedding: torch.Tensor | None
    final_norm: NormWeights
    head: LinearWeights
    cos: torch.Tensor | None
    sin: torch.Tensor | None
    activation: str

    @property
    def dtype(self) -> torch.dtype:
        """Type of the computation."""
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.device

    def products(self) -> dict[str, LinearWeights]:
        """The kinds of product of one step, by name; each layer has the first four."""
        first = self.layers[0]
        return {"qkv": first.qkv, "dense": first.dense, "fc": first.fc, "proj": first.proj, "head": self.head}


_ACTIVATION_NAMES = {
    "gelu": "gelu", "gelu_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu", "silu": "silu", "squared_relu": "squared_relu",
}  # fmt: skip


def lower(decoder: Decoder) -> LoweredModel:
    """Return the lowered form of a whole decoder on one rank; weights are shared with it wherever it reads them as is.

    A gated MLP's two weights are stacked: the decoder's own then become views of the stacked one, so that neither form
    costs memory of its own.
    """
    config = decoder.config
    transformer = decoder.transformer
    layers = tuple(_layer(layer) for layer in transformer.layers)
    embedding = transformer.vocab_embedding.weight.data
    if config.share_embedding_table:
        head = _plain(embedding)
    else:
        head = _linear(decoder.lm_head)
    return LoweredModel(
        config=config,
        layers=layers,
        embedding=embedding,
        position_embedding=transformer.position_embedding.weight.data if decoder.learned_positions else None,
        final_norm=_norm(transformer.ln_f),
        head=head,
        cos=decoder.rotary_cos if config.uses_rope else None,
        sin=decoder.rotary_sin if config.uses_rope else None,
        activation=_ACTIVATION_NAMES[config.hidden_act],
    )


def _layer(layer: DecoderLayer) -> LayerWeights:
    attention, mlp = layer.attention, layer.mlp
    kv_scale = getattr(attention, "kv_cache_scaling_factor", None)
    return LayerWeights(
        input_norm=_norm(layer.input_layernorm),
        qkv=_linear(attention.qkv),
        dense=_linear(attention.dense),
        post_norm=_norm(layer.post_layernorm),
        fc=_stacked(mlp.fc, mlp.gate) if mlp.gated else _linear(mlp.fc),
        proj=_linear(mlp.proj),
        kv_scale=1.0 if kv_scale is None else float(kv_scale),
    )


def _norm(norm: nn.Module) -> NormWeights:
    if isinstance(norm, LayerNorm):
        return NormWeights("layernorm", norm.weight.data, norm.bias.data, norm.epsilon)
    assert isinstance(norm, RmsNorm), f"a norm of type {type(norm).__name__}"  # noqa: S101
    return NormWeights("rmsnorm", norm.weight.data, None, norm.epsilon)


def _plain(weight: torch.Tensor) -> LinearWeights:
    return LinearWeights(weight, None, None, 16, None, False, weight.shape[1], weight.shape[0])


def _linear(linear: Linear) -> LinearWeights:
    bias = None if linear.bias is None else linear.bias.data
    scheme = linear.scheme
    if scheme is None:
        return LinearWeights(
            linear.weight.data, None, bias, 16, None, False, linear.in_features, linear.out_features
        )
    return LinearWeights(
        linear.weight.data,
        getattr(linear, scheme.scale_name).data,
        bias,
        scheme.bits,
        scheme.group_size,
        False,
        linear.in_features,
        linear.out_features,
    )


def _stacked(fc: Linear, gate: Linear) -> LinearWeights:
    """One weight for both layers; their parameters become its halves."""
    first, second = _linear(fc), _linear(gate)
    half = first.out_features
    weight = torch.cat((first.weight, second.weight))
    fc.weight.data, gate.weight.data = weight[:half], weight[half:]
    scale = bias = None
    if first.scale is not None and second.scale is not None:
        scale = torch.cat((first.scale, second.scale))
    if first.bias is not None and second.bias is not None:
        bias = torch.cat((first.bias, second.bias))
    return LinearWeights(
        weight, scale, bias, first.bits, first.group_size, True, first.in_features, first.out_features
    )
