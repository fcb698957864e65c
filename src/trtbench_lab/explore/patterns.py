"""Patterns that make an engine of a language model slow: each rule looks at the layers and says why and what to do."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..network.node_names import module_group
from .dtypes import dtype_bits, is_float
from .layer import Layer
from .result import SlowPattern

SMALL_OPS = 3
"""Elementwise layers in a row from which on they are worth one kernel."""
_CACHE = re.compile(r"^(past|present)_(key|value)_\d+$|^kv_cache(_out)?_\d+$")
_LARGE_WEIGHTS = 1 << 16
_LEAST_SHARE = 1.0  # percent of the time below which a pattern is not worth a sentence


def slow_patterns(layers: Sequence[Layer]) -> tuple[SlowPattern, ...]:
    """Return what makes an engine slower than it need be, the most time first.

    Patterns that take less than 1 % of the recorded time are left out; without recorded times all are told.
    """
    total_ms = sum(layer.time_ms or 0.0 for layer in layers)
    found = [_priced(pattern, layers, total_ms) for rule in _RULES for pattern in rule(layers)]
    kept = [pattern for pattern in found if pattern.share is None or pattern.share >= _LEAST_SHARE]
    return tuple(sorted(kept, key=lambda pattern: -(pattern.time_ms or 0.0)))


@dataclass(frozen=True)
class _Found:
    """A pattern before its time is known."""

    rule: str
    where: str
    members: tuple[Layer, ...]
    reason: str
    remedy: str


def _priced(found: _Found, layers: Sequence[Layer], total_ms: float) -> SlowPattern:
    time_ms = sum(layer.time_ms or 0.0 for layer in found.members) if total_ms else None
    return SlowPattern(
        rule=found.rule,
        where=found.where,
        layers=tuple(layer.name for layer in found.members),
        reason=found.reason,
        remedy=found.remedy,
        time_ms=time_ms,
        share=100 * time_ms / total_ms if time_ms is not None else None,
    )


def _reformats(layers: Sequence[Layer]) -> Iterator[_Found]:
    for where, members in _by_place(layer for layer in layers if layer.kind == "layout"):
        yield _Found(
            "reformat",
            where,
            members,
            "numbers are rewritten in another layout or order between two layers, which computes nothing",
            "Give neighbouring layers one type and layout; a product with a transposed weight stored transposed "
            "needs none.",
        )


def _unfused_attention(layers: Sequence[Layer]) -> Iterator[_Found]:
    parts: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        if (
            layer.module is not None
            and "attention" in layer.module
            and layer.kind in ("softmax", "matmul", "attention")
        ):
            parts[layer.module].append(layer)
    softmaxes = [
        layer
        for module, members in parts.items()
        for layer in members
        if layer.kind == "softmax" and not any(other.kind == "attention" for other in parts[module])
    ]
    softmaxes += [layer for layer in layers if layer.module is None and layer.kind == "softmax"]
    for where, members in _by_place(softmaxes):
        modules = {layer.module for layer in members}
        products = [
            layer
            for layer in layers
            if layer.kind == "matmul" and layer.module in modules and layer.weights_bytes in (None, 0)
        ]
        yield _Found(
            "unfused attention",
            where,
            (*members, *(layer for layer in products if layer.module is not None)),
            "scores are written to memory, read by a softmax, and read again by the second product; they grow with the "
            "square of the prompt",
            "Use fused attention: gpt_attention_plugin or context_fmha on, a head size and type that the backend "
            "fuses.",
        )


def _dtype_islands(layers: Sequence[Layer]) -> Iterator[_Found]:
    """Matrix products and attention that compute in a wider type than most do."""
    heavy = [layer for layer in layers if layer.kind in ("matmul", "attention") and _compute_dtype(layer)]
    counted = Counter(_compute_dtype(layer) for layer in heavy)
    if len(counted) < 2:
        return
    main = counted.most_common(1)[0][0]
    wider = [layer for layer in heavy if (dtype_bits(_compute_dtype(layer)) or 0) > (dtype_bits(main) or 0)]
    for where, members in _by_place(wider):
        island = _compute_dtype(members[0])
        yield _Found(
            "dtype island",
            where,
            members,
            f"it computes in {island} while the engine computes in {main}: twice the bytes, and casts around it",
            f"Keep it in {main} unless its accuracy was measured to need {island}; the head in float32 is a "
            "common mistake.",
        )


def _cast_round_trips(layers: Sequence[Layer]) -> Iterator[_Found]:
    """A cast whose result is cast back, with nothing but views in between."""
    producers = {tensor.name: layer for layer in layers for tensor in layer.outputs if tensor.name}
    trips: list[Layer] = []
    for place, layer in enumerate(layers):
        if layer.kind != "cast" or not layer.inputs or not layer.outputs:
            continue
        source = producers.get(layer.inputs[0].name) if layer.inputs[0].name else None
        while source is not None and source.kind == "view" and source.inputs and source.inputs[0].name:
            source = producers.get(source.inputs[0].name)
        if source is None and not layer.inputs[0].name and place:
            source = layers[place - 1]  # no names: the layer before, in the order of execution
        if source is not None and source.kind == "cast" and _is_return(source, layer):
            trips += [source, layer]
    for where, members in _by_place(dict.fromkeys(trips)):
        yield _Found(
            "cast round trip",
            where,
            members,
            "a value is cast to another type and straight back, which loses bits and time",
            "Remove both casts, or fuse what was meant to run between them.",
        )


def _small_ops(layers: Sequence[Layer]) -> Iterator[_Found]:
    """Elementwise layers that follow each other and could be one kernel."""
    chains: list[list[Layer]] = []
    current: list[Layer] = []
    for layer in (one for one in layers if one.kind != "view"):
        small = layer.kind in ("pointwise", "cast", "reduce", "norm", "rotary")
        if small and current and _family(layer) == _family(current[-1]):
            current.append(layer)
            continue
        chains.append(current)
        current = [layer] if small else []
    chains.append(current)
    long = [layer for chain in chains if len(chain) >= SMALL_OPS for layer in chain]
    for where, members in _by_place(long):
        yield _Found(
            "small ops",
            where,
            members,
            f"{SMALL_OPS} or more elementwise layers follow each other: each reads and writes memory, and a GPU "
            "pays a launch "
            "for each",
            "Fuse them: the norm and swiglu plugins, a higher opt_level, or a backend that fuses chains.",
        )


def _cache_copies(layers: Sequence[Layer]) -> Iterator[_Found]:
    copies = [
        layer
        for layer in layers
        if layer.kind in ("copy", "layout", "cast")
        and (any(_CACHE.match(tensor.name) for tensor in (*layer.inputs, *layer.outputs)) or _repeats_heads(layer))
    ]
    for where, members in _by_place(copies):
        repeats = any(_repeats_heads(layer) for layer in members)
        yield _Found(
            "cache copy",
            where,
            members,
            "the whole key/value cache is "
            + ("repeated for every query head" if repeats else "copied")
            + " in each step, which "
            "costs more with every token it holds",
            "Update the cache in place (TRT_KVCacheUpdate, the paged plugin, or bound past and present of one "
            "memory); give "
            "grouped heads to attention as they are.",
        )


def _weights_expanded(layers: Sequence[Layer]) -> Iterator[_Found]:
    expanded = [layer for layer in layers if layer.kind == "quantize" and (layer.weights_bytes or 0) >= _LARGE_WEIGHTS]
    for where, members in _by_place(expanded):
        yield _Found(
            "weights expanded",
            where,
            members,
            "packed weights are written out as dense ones in each run, so the step reads more than without "
            "quantization",
            "Use a fused product: weight_only_quant_matmul, weight_only_groupwise_quant_matmul, or opt_level 2 "
            "and above.",
        )


_RULES: tuple[Callable[[Sequence[Layer]], Iterator[_Found]], ...] = (
    _unfused_attention,
    _dtype_islands,
    _reformats,
    _cast_round_trips,
    _cache_copies,
    _weights_expanded,
    _small_ops,
)


def _by_place(layers: Iterable[Layer]) -> list[tuple[str, tuple[Layer, ...]]]:
    """Return layers by the part of the model, the same part of all decoder layers together."""
    places: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        places[module_group(layer.module)].append(layer)
    return [(where, tuple(members)) for where, members in places.items()]


def _compute_dtype(layer: Layer) -> str | None:
    """Return the type that a product computes in: of its activations, since weights may be packed."""
    reals = [tensor.dtype for tensor in (*layer.inputs[:1], *layer.outputs[:1]) if is_float(tensor.dtype)]
    return reals[0] if reals else None


def _is_return(first: Layer, second: Layer) -> bool:
    start = first.inputs[0].dtype if first.inputs else None
    end = second.outputs[0].dtype if second.outputs else None
    between = first.outputs[0].dtype if first.outputs else None
    return start is not None and start == end and between != start


def _family(layer: Layer) -> str | None:
    """Return the module that a chain of small layers may spread over: the module itself or its parent."""
    return layer.module.rpartition(".")[0] or layer.module if layer.module is not None else None


def _repeats_heads(layer: Layer) -> bool:
    """Whether a copy makes a tensor of four or more dimensions larger: grouped keys repeated for every query head."""
    if layer.kind != "copy" or not layer.inputs or not layer.outputs or "attention" not in (layer.module or ""):
        return False
    if (
        "expand" not in layer.type.casefold()
        and "repeat" not in layer.type.casefold()
        and "tile" not in layer.type.casefold()
    ):
        return False
    before, after = layer.inputs[0], layer.outputs[0]
    return (
        after.shape is not None
        and len(after.shape) >= 4
        and before.elements is not None
        and after.elements is not None
        and after.elements > before.elements
    )
