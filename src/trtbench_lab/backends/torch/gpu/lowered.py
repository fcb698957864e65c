"""The decoder lowered for a GPU: each layer as five fused products and one attention, over the decoder's own weights.

The network's modules stay the one definition: what is read here are their tensors, extents and traits, layer by layer,
as a compiler reads a graph. Tests hold the lowered form equal to the modules.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ....network.decoder import Decoder, DecoderLayer
from ....network.linear import Linear
from ....network.norm import LayerNorm, RmsNorm
from ....plugins.matmul.launch import Norm
from ....plugins.matmul.weights import LinearWeights
from ....specs import ModelConfig


@dataclass(frozen=True)
class Product:
    """A linear layer, or a gated pair of them.

    Attributes
    ----------
    weights
        The layer; of a gated pair the activated one.
    gate
        The other of the pair, or None.
    stacked
        Both weights of a dense pair in one (2 · out, in), the activated half first: the library multiplies it at once.
    norm_kind
        ``"rms"`` or ``"layer"`` where the product's input is a norm's output, which kernels fuse; None elsewhere.
    """

    weights: LinearWeights
    gate: LinearWeights | None = None
    stacked: torch.Tensor | None = None
    norm_kind: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that one use reads."""
        return self.weights.nbytes + (0 if self.gate is None else self.gate.nbytes)


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer."""

    input_norm: Norm
    qkv: Product
    dense: Product
    post_norm: Norm
    fc: Product
    proj: Product
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
        Name of the MLP's activation.
    """

    config: ModelConfig
    layers: tuple[LayerWeights, ...]
    embedding: torch.Tensor
    position_embedding: torch.Tensor | None
    final_norm: Norm
    head: Product
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
        kind = _norm(transformer.ln_f).kind
        head = Product(LinearWeights("dense", embedding, embedding.shape[0], embedding.shape[1]), norm_kind=kind)
    else:
        head = _product(decoder.lm_head, transformer.ln_f)
    return LoweredModel(
        config=config,
        layers=layers,
        embedding=embedding,
        position_embedding=transformer.position_embedding.weight.data if decoder.learned_positions else None,
        final_norm=_norm(transformer.ln_f),
        head=head,
        cos=decoder.rotary_cos if config.uses_rope else None,
        sin=decoder.rotary_sin if config.uses_rope else None,
        activation=config.hidden_act,
    )


def _layer(layer: DecoderLayer) -> LayerWeights:
    attention, mlp = layer.attention, layer.mlp
    kv_scale = getattr(attention, "kv_cache_scaling_factor", None)
    return LayerWeights(
        input_norm=_norm(layer.input_layernorm),
        qkv=_product(attention.qkv, layer.input_layernorm),
        dense=_product(attention.dense),
        post_norm=_norm(layer.post_layernorm),
        fc=_gated(mlp.fc, mlp.gate, layer.post_layernorm) if mlp.gated else _product(mlp.fc, layer.post_layernorm),
        proj=_product(mlp.proj),
        kv_scale=1.0 if kv_scale is None else float(kv_scale),
    )


def _norm(norm: nn.Module) -> Norm:
    if isinstance(norm, LayerNorm):
        return Norm("layer", norm.weight.data, norm.bias.data, norm.epsilon)
    assert isinstance(norm, RmsNorm), f"a norm of type {type(norm).__name__}"  # noqa: S101
    return Norm("rms", norm.weight.data, None, norm.epsilon)


def _product(linear: Linear, norm: nn.Module | None = None) -> Product:
    return Product(_linear(linear).interleaved(), norm_kind=None if norm is None else _norm(norm).kind)


def _linear(linear: Linear) -> LinearWeights:
    bias = None if linear.bias is None else linear.bias.data
    scheme = linear.scheme
    if scheme is None:
        return LinearWeights("dense", linear.weight.data, linear.out_features, linear.in_features, bias=bias)
    return LinearWeights(
        "int8" if scheme.bits == 8 else "int4",
        linear.weight.data,
        linear.out_features,
        linear.in_features,
        scale=getattr(linear, scheme.scale_name).data,
        group_size=scheme.group_size,
        bias=bias,
    )


def _gated(fc: Linear, gate: Linear, norm: nn.Module) -> Product:
    """Stack dense weights; the modules' own parameters become the halves."""
    stacked = None
    if fc.scheme is None and gate.scheme is None:
        stacked = torch.cat((fc.weight.data, gate.weight.data))
        fc.weight.data, gate.weight.data = stacked[: fc.out_features], stacked[fc.out_features :]
    return Product(_linear(fc).interleaved(), _linear(gate).interleaved(), stacked, _norm(norm).kind)
