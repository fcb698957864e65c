"""How much a layer computes and moves in one run, from its kind and the shapes of its tensors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from .layer import Layer, TensorFacts


def with_work(layer: Layer) -> Layer:
    """Return the layer with `flops` and `moved_bytes` filled in, where its shapes tell them."""
    return dataclasses.replace(layer, flops=_flops(layer), moved_bytes=_moved_bytes(layer))


def _flops(layer: Layer) -> int | None:
    out = layer.outputs[0] if layer.outputs else None
    elements = out.elements if out is not None else None
    if layer.kind in ("view", "copy", "layout", "cache", "embedding"):
        return 0
    if layer.kind == "matmul":
        inner = layer.inputs[0].shape if layer.inputs else None
        if elements is None or not inner or inner[-1] < 0:
            return None
        return 2 * elements * inner[-1]
    if layer.kind == "attention":
        keys = _cache_length(layer.inputs)
        return None if elements is None or keys is None else 4 * elements * keys
    if layer.kind in ("pointwise", "norm", "softmax", "reduce", "rotary", "quantize", "cast"):
        source = layer.inputs[0].elements if layer.inputs else None
        counted = max(elements or 0, source or 0)
        return {"norm": 5, "softmax": 5, "rotary": 4}.get(layer.kind, 1) * counted if counted else None
    return None


def _moved_bytes(layer: Layer) -> int | None:
    reads = [tensor.nbytes for tensor in layer.inputs]
    writes = [tensor.nbytes for tensor in layer.outputs]
    if layer.kind == "view":
        return 0
    if layer.kind == "embedding":  # rows are read, not the table
        return None if not writes or writes[0] is None else 2 * writes[0]
    if layer.kind == "cache":  # updated in place: what is new is read and written
        new = [size for size in reads[1:2] if size is not None]
        return 2 * new[0] if new else None
    if layer.kind == "attention":  # caches are read; as outputs they are the same memory
        writes = writes[:1]
    if not writes or any(size is None for size in (*reads, *writes)):
        return None
    return sum(size or 0 for size in (*reads, *writes)) + (layer.weights_bytes or 0)


def _cache_length(inputs: Sequence[TensorFacts]) -> int | None:
    """Return the tokens that the keys of an attention layer hold: the third size of its first 4-D key, else its own."""
    four = [tensor.shape for tensor in inputs[1:] if tensor.shape is not None and len(tensor.shape) == 4]
    if four:
        return four[0][2] if four[0][2] >= 0 else None
    pools = [tensor.shape for tensor in inputs[1:] if tensor.shape is not None and len(tensor.shape) == 5]
    if pools:  # a pool of blocks: (blocks, 2, heads, tokens a block, head size)
        return math.prod((pools[0][0], pools[0][3])) if min(pools[0]) >= 0 else None
    first = inputs[1].shape if len(inputs) > 1 else None
    return first[1] if first is not None and len(first) == 3 and first[1] >= 0 else None
