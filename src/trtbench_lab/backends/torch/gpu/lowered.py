"""The decoder lowered for a GPU: each layer as five fused products and one attention, over the decoder's own weights.

The network's modules stay the one definition: what is read here are their tensors, extents and traits, layer by layer,
as a compiler reads a graph. Tests hold the lowered form equal to the modules.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import nn

from ....network.decoder import Decoder, DecoderLayer
from ....network.linear import Linear
from ....network.norm import LayerNorm, RmsNorm
from ....plugins.matmul.launch import Norm
from ....plugins.matmul.weights import LinearWeights
from ....quantization.linear_kinds import LinearForm, LinearKind
from ....quantization.weight_only import integer_zero_points
from ....ranks import RankCommunicator
from ....specs import ModelConfig
from .inputs import Inputs


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
        Both weights of a dense or 8-bit pair in one (2 · out, in), the activated half first: they are
        multiplied at once.
    stacked_scale
        Of a stacked 8-bit pair: the scale of both, (1,) float32, or one an output (2 · out,).
    ratios
        What the halves of a product with one `stacked_scale` are multiplied by.
    norm_kind
        ``"rms"`` or ``"layer"`` where the product's input is a norm's output; None elsewhere.
    inputs
        How a quantized layer's inputs are prepared, or None.
    partner
        The other of a gated pair whose two layers differ in kind or in inputs: it is multiplied on its own.
    dtype
        Type of the computation.
    """

    weights: LinearWeights
    gate: LinearWeights | None = None
    stacked: torch.Tensor | None = None
    stacked_scale: torch.Tensor | None = None
    ratios: tuple[float, float] = (1.0, 1.0)
    norm_kind: str | None = None
    inputs: Inputs | None = None
    partner: Product | None = None
    dtype: torch.dtype = torch.float32

    @property
    def nbytes(self) -> int:
        """Bytes that one use reads."""
        found = self.weights.nbytes + (0 if self.gate is None else self.gate.nbytes)
        return found + (0 if self.partner is None else self.partner.nbytes)

    @property
    def whole(self) -> LinearWeights | None:
        """An INT8 pair as one layer of twice the outputs."""
        if self.stacked is None or self.weights.kind != "int8_int8" or self.weights.bias is not None:
            return None
        return replace(self.weights, weight=self.stacked, out_features=self.stacked.shape[0], scale=self.stacked_scale)

    @property
    def fused_norm(self) -> str | None:
        """The norm that the product's kernels apply themselves: none where a kernel before them prepares the inputs."""
        return None if self.inputs is not None and self.inputs.apart else self.norm_kind


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
    ranks
        The ranks that share these layers; None for one.
    split_embedding
        Embeds tokens where the table is split over ranks, else None.
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
    ranks: RankCommunicator | None = None
    split_embedding: nn.Module | None = None

    @property
    def vocab_size(self) -> int:
        """Columns of the logits, padding of the vocabulary included."""
        return self.head.weights.out_features * self.config.mapping.tp_size

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
    embedding = transformer.vocab_embedding.weight.data
    dtype = embedding.dtype
    tp_rank = decoder.mapping.tp_rank
    layers = tuple(_layer(layer, dtype, tp_rank) for layer in transformer.layers)
    if config.share_embedding_table:
        kind = _norm(transformer.ln_f).kind
        head = Product(LinearWeights("dense", embedding, *embedding.shape), norm_kind=kind, dtype=dtype)
    else:
        head = _product(decoder.lm_head, dtype, transformer.ln_f)
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
        ranks=cast(RankCommunicator, decoder.communicator) if decoder.mapping.tp_size > 1 else None,
        split_embedding=None if transformer.vocab_embedding.split_dim is None else transformer,
    )


def _layer(layer: DecoderLayer, dtype: torch.dtype, tp_rank: int) -> LayerWeights:
    attention, mlp, post = layer.attention, layer.mlp, layer.post_layernorm
    kv_scale = getattr(attention, "kv_cache_scaling_factor", None)
    return LayerWeights(
        input_norm=_norm(layer.input_layernorm),
        qkv=_product(attention.qkv, dtype, layer.input_layernorm),
        dense=_addend(_product(attention.dense, dtype), tp_rank),
        post_norm=_norm(post),
        fc=_gated(mlp.fc, mlp.gate, post, dtype) if mlp.gated else _product(mlp.fc, dtype, post),
        proj=_addend(_product(mlp.proj, dtype), tp_rank),
        kv_scale=1.0 if kv_scale is None else float(kv_scale),
    )


def _addend(product: Product, tp_rank: int) -> Product:
    """Of a product that is summed over ranks the first one alone adds the bias."""
    return product if tp_rank == 0 else replace(product, weights=replace(product.weights, bias=None))


def _norm(norm: nn.Module) -> Norm:
    if isinstance(norm, LayerNorm):
        return Norm("layer", norm.weight.data, norm.bias.data, norm.epsilon)
    assert isinstance(norm, RmsNorm), f"a norm of type {type(norm).__name__}"  # noqa: S101
    return Norm("rms", norm.weight.data, None, norm.epsilon)


def _product(linear: Linear, dtype: torch.dtype, norm: nn.Module | None = None) -> Product:
    norm_kind = None if norm is None else _norm(norm).kind
    return Product(_linear(linear).interleaved(), norm_kind=norm_kind, inputs=_inputs(linear), dtype=dtype)


def _inputs(linear: Linear) -> Inputs | None:
    """Say how the layer's inputs are prepared; the products' kernels apply AWQ's factor and a static FP8 step."""
    kind, parts = linear.kind, dict(linear.named_parameters())
    if kind is None:
        return None
    order, factor = parts.get("input_order"), parts.get("prequant_scaling_factor")
    if kind.form is LinearForm.INT8:
        return Inputs("int8", parts.get("act_scale"), divisor=parts.get("smoother"))
    if kind.form is LinearForm.FP8:
        step = parts.get("activation_scaling_factor")
        return Inputs("fp8", step, apart=step is None)
    if kind.rounds_inputs_to_fp8:
        return Inputs("through_fp8", parts["activation_scaling_factor"], factor=factor, order=order)
    if order is not None:
        return Inputs(factor=factor, order=order)
    return None


def _linear(linear: Linear) -> LinearWeights:
    parts = {name: parameter.data for name, parameter in linear.named_parameters()}
    extents, bias, kind = (linear.out_features, linear.in_features), parts.get("bias"), linear.kind
    weight = parts["weight"]
    if kind is None:
        return LinearWeights("dense", weight, *extents, bias=bias)
    if kind.form is LinearForm.INT8:
        return LinearWeights(
            "int8_int8",
            weight,
            *extents,
            scale=parts["per_channel_scale"],
            input_scale=parts.get("act_scale"),
            bias=bias,
        )
    if kind.form is LinearForm.FP8:
        return _fp8(kind, weight, extents, parts)
    scheme = kind.scheme
    assert scheme is not None  # noqa: S101 - of the remaining forms
    scale = parts[scheme.scale_name]
    return LinearWeights(
        "int8" if scheme.bits == 8 else "int4",
        weight,
        *extents,
        scale=scale,
        group_size=scheme.group_size,
        zero=_zeros(parts.get("zero"), scale),
        pre_scale=None if _inputs(linear) is not None else parts.get("prequant_scaling_factor"),
        bias=bias,
    )


def _fp8(
    kind: LinearKind, weight: torch.Tensor, extents: tuple[int, int], parts: dict[str, torch.Tensor]
) -> LinearWeights:
    bias = parts.get("bias")
    if kind.algo.has_channel_scales:
        return LinearWeights("fp8_fp8", weight, *extents, scale=parts["per_channel_scale"], bias=bias)
    return LinearWeights(
        "fp8",
        weight,
        *extents,
        scale=parts["weights_scaling_factor"],
        input_scale=parts["activation_scaling_factor"],
        bias=bias,
    )


def _zeros(stored: torch.Tensor | None, scale: torch.Tensor) -> torch.Tensor | None:
    """Return zero points as integers; layers with a plugin hold them so already."""
    if stored is None or not stored.is_floating_point():
        return stored
    return integer_zero_points(stored, scale)


def _gated(fc: Linear, gate: Linear, norm: nn.Module, dtype: torch.dtype) -> Product:
    """Join a gated MLP's two layers where they are alike. Stacked weights become the modules' own: its halves."""
    first, second = _product(fc, dtype, norm), _product(gate, dtype, norm)
    if not _alike(first, second):
        return replace(first, partner=second)
    stacked, scale, ratios = None, None, (1.0, 1.0)
    if first.weights.kind in ("dense", "fp8", "fp8_fp8", "int8_int8"):
        stacked = _stacked(fc.weight.data, gate.weight.data)
        fc.weight.data, gate.weight.data = stacked[: fc.out_features], stacked[fc.out_features :]
        first, second = _product(fc, dtype, norm), _product(gate, dtype, norm)
    scales = (first.weights.scale, second.weights.scale)
    if first.weights.kind in ("fp8_fp8", "int8_int8"):  # one an output, also of two layers with one each
        scale = torch.cat([one.expand(fc.out_features) for one in scales if one is not None])
    elif first.weights.kind == "fp8":
        scale = torch.maximum(*[one for one in scales if one is not None])
        ratios = (float(scales[0] / scale), float(scales[1] / scale))  # type: ignore[operator]
    return replace(first, gate=second.weights, stacked=stacked, stacked_scale=scale, ratios=ratios)


def _stacked(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return two (out, in) matrices as one; without a copy where the second begins where the first ends."""
    shared = first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    behind = first.is_contiguous() and second.is_contiguous() and first.data_ptr() + first.nbytes == second.data_ptr()
    if shared and behind:
        return first.as_strided((first.shape[0] + second.shape[0], first.shape[1]), first.stride())
    if first.dtype == torch.float8_e4m3fn:  # as bytes, since not every operation knows FP8
        return torch.cat([half.view(torch.uint8) for half in (first, second)]).view(torch.float8_e4m3fn)
    return torch.cat([first, second])


def _alike(first: Product, second: Product) -> bool:
    """Whether one kernel can multiply by both: the same kind and layout, and inputs that are prepared alike."""
    a, b = first.weights, second.weights
    if (a.kind, a.group_size, a.nibbles, a.zero is None) != (b.kind, b.group_size, b.nibbles, b.zero is None):
        return False
    if (a.pre_scale is None) != (b.pre_scale is None) or a.out_features != b.out_features:
        return False
    if a.scale is not None and b.scale is not None and a.scale.shape != b.scale.shape:
        return False
    if a.pre_scale is not None and b.pre_scale is not None and not torch.equal(a.pre_scale, b.pre_scale):
        return False
    if first.inputs is None or second.inputs is None:
        return first.inputs is second.inputs
    return first.inputs.same_as(second.inputs)
