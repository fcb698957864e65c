"""What a model that another tool quantized becomes in a checkpoint: found from its scales and zero points, exactly.

Nothing is rounded again: the checkpoint's weights, dequantized, equal those of the source's own definition bit for bit.
What a checkpoint cannot hold exactly is refused, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch

from ..checkpoint.layout import Split, linear_layers
from ..checkpoint.matching import SourcePart
from ..errors import QuantizationError
from ..families import Family, Part
from ..families.base import transposed
from ..intake.quantized.linear import QuantizedLinear
from ..intake.quantized.scheme import Activations, Packing
from ..intake.quantized.source import QuantizedSource
from ..specs import ModelConfig, QuantAlgo, QuantConfig
from ..specs.quant import GROUP_SIZES
from .weight_only import pack_int4

Matched = Mapping[str, tuple[SourcePart, ...]]

_STEPS_DIFFER = (
    "The parts of a fused layer (query, key and value) have static input steps or tensor steps of their own, which "
    "one layer cannot keep: weights stay exact, and inputs are scaled token by token instead."
)


@dataclass(frozen=True)
class Found:
    """What the layers of a source have in common.

    Attributes
    ----------
    quant
        The checkpoint's quantization.
    scale_dtype
        Type in which all scales are exact; None where they are stored in float32 whatever the checkpoint's type.
    notes
        What a person should know.
    """

    quant: QuantConfig
    scale_dtype: torch.dtype | None
    notes: tuple[str, ...] = ()


def linear_family(family: Family, source: QuantizedSource) -> Family:
    """Return the family with its quantized layers as (out, in): packed files keep them so, whatever the class does."""
    packed = {f"{layer}.weight" for layer in source.layers}

    def plain(part: Part) -> Part:
        names = {part.name, f"{family.prefix}{part.name}", part.name.removeprefix(family.prefix)}
        return replace(part, transform=None) if part.transform is transposed and names & packed else part

    def weight_map(config: ModelConfig) -> list:
        return [replace(rule, parts=tuple(map(plain, rule.parts))) for rule in family.weight_map(config)]

    changed = replace(family)
    object.__setattr__(changed, "weight_map", weight_map)
    return changed


def survey(source: QuantizedSource, config: ModelConfig, matched: Matched) -> Found:
    """Return the quantization of the checkpoint that a source becomes; reads scales and zero points, not weights.

    Parameters
    ----------
    source
        The folder.
    config
        The model, unquantized.
    matched
        Whole tensor → its parts in the source.

    Raises
    ------
    QuantizationError
        When a fused layer is quantized in part, groups have a size without kernels, or layers differ.
    """
    quantized = set(source.layers)
    kept, layers = [], {}
    for module, *_ in linear_layers(config):
        parts = [part.name.removesuffix(".weight") for part in matched[f"{module}.weight"]]
        held = [part in quantized for part in parts]
        if not any(held):
            kept.append(module)
        elif not all(held):
            raise QuantizationError(
                f"{module} is made of {', '.join(parts)}, of which only some are quantized.",
                where=str(source.directory), remedy="Quantize all of them, or none.",
            )  # fmt: skip
        else:
            layers[module] = [source.linear(part, with_weight=False) for part in parts]
    excluded = None if kept == ["lm_head"] else tuple(kept)
    base = QuantConfig(exclude_modules=excluded, kv_cache_quant_algo=source.scheme.kv_cache)
    if source.scheme.is_float or (source.scheme.bits == 8 and source.scheme.activations is not Activations.PLAIN):
        return _with_activations(source, base, layers)
    shared = config.mapping.tp_size
    widths = {
        shape[1] // shared if split is Split.COLUMNS else shape[1]
        for module, shape, split, _ in linear_layers(config)
        if module in layers
    }
    return _weight_only(source, base, layers, widths)


def _with_activations(source: QuantizedSource, base: QuantConfig, layers: Mapping[str, list[QuantizedLinear]]) -> Found:
    is_float = source.scheme.is_float
    notes: tuple[str, ...] = ()
    static = source.scheme.activations is Activations.STATIC
    if static and not all(_one_step(parts, weights_too=is_float) for parts in layers.values()):
        static, notes = False, (_STEPS_DIFFER,)
    if is_float:
        algo = QuantAlgo.FP8 if static else QuantAlgo.FP8_PER_CHANNEL_PER_TOKEN
    elif static:
        algo = QuantAlgo.W8A8_SQ_PER_CHANNEL_PLUGIN
    else:
        algo = QuantAlgo.W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN
    return Found(base.replace(quant_algo=algo), None, notes)


def _one_step(parts: list[QuantizedLinear], *, weights_too: bool) -> bool:
    """Whether the parts share one static step of their inputs (and, for FP8, one of their weights)."""
    inputs = [part.input_scale for part in parts]
    if any(step is None for step in inputs) or len({float(step) for step in inputs}) > 1:  # type: ignore[arg-type]
        return False
    return not weights_too or len({value for part in parts for value in part.scales.flatten().tolist()}) == 1


def _weight_only(
    source: QuantizedSource, base: QuantConfig, layers: Mapping[str, list[QuantizedLinear]], widths: set[int]
) -> Found:
    """`widths` are the input features that a rank has of each layer."""
    parts = [part for held in layers.values() for part in held]
    zeros = any(_has_zeros(part) for part in parts)
    order = any(part.has_order for part in parts)
    before = any(part.pre_scale is not None for part in parts)
    group = _group_size(parts, widths, needed=zeros or order or before, where=str(source.directory))
    if source.scheme.bits > 4:
        algo = QuantAlgo.W8A16
    elif source.scheme.packing is Packing.MODELOPT:
        algo = QuantAlgo.W4A8_AWQ if source.scheme.activations is Activations.STATIC else QuantAlgo.W4A16_AWQ
    elif group is not None and (zeros or order or source.scheme.packing is not Packing.PACKED):
        algo = QuantAlgo.W4A16_GPTQ
    else:
        algo = QuantAlgo.W4A16
    quant = base.replace(
        quant_algo=algo, group_size=group, has_zero_point=zeros, input_order=order, pre_quant_scale=before
    )
    factors = [part.scales for part in parts] + [part.pre_scale for part in parts if part.pre_scale is not None]
    return Found(quant, torch.promote_types(factors[0].dtype, _widest(factors)))


def _widest(tensors: list[torch.Tensor]) -> torch.dtype:
    found = tensors[0].dtype
    for tensor in tensors[1:]:
        found = torch.promote_types(found, tensor.dtype)
    return found


def _has_zeros(part: QuantizedLinear) -> bool:
    """Whether zero points say more than the middle of the range does."""
    return part.zeros is not None and not bool((part.zeros == 1 << (part.bits - 1)).all())


def _group_size(parts: list[QuantizedLinear], widths: set[int], *, needed: bool, where: str) -> int | None:
    """Return the checkpoint's group: the source's own, or the largest with kernels that divides it."""
    sizes = {part.group_size for part in parts}
    if sizes == {None} and not needed:
        return None
    extents = widths | {size for size in sizes if size is not None}
    fitting = [size for size in GROUP_SIZES if all(extent % size == 0 for extent in extents)]
    if not fitting:
        found = ", ".join("one a channel" if size is None else str(size) for size in sorted(sizes, key=str))
        raise QuantizationError(
            f"Groups of {found} over {', '.join(map(str, sorted(widths)))} input features a rank cannot be told in "
            f"groups of {', '.join(map(str, GROUP_SIZES))}.",
            where=where, remedy="Quantize with groups of 32, 64 or 128.",
        )  # fmt: skip
    return max(fitting)


def module_tensors(
    module: str, parts: list[tuple[QuantizedLinear, SourcePart]], quant: QuantConfig, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Return what the checkpoint keeps of a linear layer, by the suffixes of `checkpoint.quantized_layout`.

    Parameters
    ----------
    module
        Its name, for messages.
    parts
        The source's layers whose rows follow each other, and the rule that picks rows of each.
    quant
        The checkpoint's quantization.
    dtype
        The checkpoint's type.
    """
    joined = _joined(module, parts)
    return dict(_tensors(module, joined, quant, dtype))


def _joined(module: str, parts: list[tuple[QuantizedLinear, SourcePart]]) -> QuantizedLinear:
    """Join layers along their outputs; what belongs to inputs has to be the same in all."""
    layers = [layer for layer, _ in parts]
    first = layers[0]
    for other in layers[1:]:
        for name in ("group_of", "pre_scale"):
            one, two = getattr(first, name), getattr(other, name)
            if (one is None) != (two is None) or (one is not None and not torch.equal(one, two)):
                raise QuantizationError(
                    f"The parts of the layer differ in {name}, which belongs to the inputs they share.",
                    where=module, remedy="Quantize query, key and value together.",
                )  # fmt: skip

    def rows(name: str) -> torch.Tensor:
        return torch.cat([rule.rows_of(getattr(layer, name)) for layer, rule in parts])

    return replace(
        first, weight=rows("weight"), scales=rows("scales"), zeros=None if first.zeros is None else rows("zeros")
    )


def _tensors(
    module: str, layer: QuantizedLinear, quant: QuantConfig, dtype: torch.dtype
) -> Iterator[tuple[str, torch.Tensor]]:
    algo = quant.quant_algo
    assert algo is not None  # noqa: S101 - only quantized layers come here
    if algo.is_fp8 or algo.is_smoothquant:
        yield "weight", layer.weight
        if algo is QuantAlgo.FP8:
            yield "weights_scaling_factor", layer.scales.flatten()[:1].float()
            yield "activation_scaling_factor", _input_step(layer)
        else:
            yield "per_channel_scale", layer.scales.flatten().float()
        if algo is QuantAlgo.W8A8_SQ_PER_CHANNEL_PLUGIN:
            yield "act_scale", _input_step(layer)
        yield "smoother", torch.ones(layer.weight.shape[1])
        return
    width = layer.weight.shape[1]
    integers, points = layer.signed()
    if quant.input_order:
        order = torch.argsort(layer.groups_of_features(), stable=True)
        _check_even(module, layer)
        integers = integers[:, order]
        yield "input_order", order.to(torch.int32)
    yield "weight", integers.contiguous() if algo.weight_bits == 8 else pack_int4(integers.contiguous())
    if quant.group_size is None:
        yield "per_channel_scale", exact(layer.scales[:, 0], dtype, module)
        return
    repeat = partial(torch.repeat_interleave, repeats=width // quant.group_size // layer.scales.shape[1], dim=1)
    scales = exact(repeat(layer.scales), dtype, module)
    yield "weights_scaling_factor", scales
    if quant.has_zero_point:
        given = torch.zeros_like(layer.scales, dtype=torch.int16) if points is None else points
        yield "zero", (-repeat(given).float() * scales.float()).to(dtype)
    if quant.pre_quant_scale:
        before = torch.ones(width) if layer.pre_scale is None else layer.pre_scale
        yield "prequant_scaling_factor", exact(before, dtype, module)
    if algo is QuantAlgo.W4A8_AWQ:
        yield "activation_scaling_factor", _input_step(layer)


def _input_step(layer: QuantizedLinear) -> torch.Tensor:
    return torch.ones(1) if layer.input_scale is None else layer.input_scale.reshape(1).float()


def _check_even(module: str, layer: QuantizedLinear) -> None:
    held = torch.bincount(layer.groups_of_features(), minlength=layer.scales.shape[1])
    if int(held.min()) != int(held.max()):
        raise QuantizationError(
            f"Groups hold from {int(held.min())} to {int(held.max())} input features; sorted columns need equal ones.",
            where=module,
            remedy="Quantize again with groups of one size.",
        )


def exact(scales: torch.Tensor, dtype: torch.dtype, module: str) -> torch.Tensor:
    """Return scales in the checkpoint's type; raises `QuantizationError` when one of them changes."""
    stored = scales.to(dtype)
    if not torch.equal(stored.float(), scales.float()):
        kind = str(scales.dtype).removeprefix("torch.")
        raise QuantizationError(
            f"The source's {kind} scales change in {str(dtype).removeprefix('torch.')}.",
            where=module,
            remedy=f"Use --dtype {kind}, or --dtype auto.",
        )
    return stored
