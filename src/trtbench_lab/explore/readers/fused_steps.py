"""The fused steps of a lowered decoder as layers: what each computes, reads and writes, and which modules it is."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...network.node_names import node_name
from ..dtypes import dtype_name
from ..layer import Layer, TensorFacts

if TYPE_CHECKING:
    import torch

    from ...backends.torch.gpu.lowered import LoweredModel, Product
    from ..recording.workload import Step

_NORM_OPERATORS = {"rms": "RMSNormalization", "layer": "LayerNormalization"}


def fused_layers(model: LoweredModel, step: Step, cache_dtype: torch.dtype) -> tuple[Layer, ...]:
    """Return the fused steps that one run of `step` goes through, in order, without times.

    Parameters
    ----------
    model
        The lowered decoder.
    step
        What runs.
    cache_dtype
        Element type of keys and values.
    """
    rows, tokens = step.batch_size, step.batch_size * step.new
    config, dtype = model.config, _name(model.dtype)
    width = model.embedding.shape[1]
    hidden = TensorFacts(dtype=dtype, shape=(tokens, width))
    layers = [_embedding(model, tokens, hidden)]
    last = len(model.layers) - 1
    for number, weights in enumerate(model.layers):
        at = f"transformer.layers.{number}"
        # Nothing but the last token of each row is wanted after the last attention.
        after = rows if number == last else tokens
        norms = (f"{at}.input_layernorm", f"{at}.post_layernorm")
        gate = () if weights.fc.gate is None and weights.fc.partner is None else (f"{at}.mlp.gate",)
        layers += [
            _product(f"{at}.attention.qkv", weights.qkv, tokens, dtype, norm=norms[0]),
            _attention(f"{at}.attention", model, step, _name(cache_dtype)),
            _product(f"{at}.attention.dense", weights.dense, after, dtype, added=True),
            _product(f"{at}.mlp.fc", weights.fc, after, dtype, norm=norms[1], gate=gate, activation=config.hidden_act),
            _product(f"{at}.mlp.proj", weights.proj, after, dtype, added=True),
        ]
    layers.append(_product("lm_head", model.head, rows, "float32", norm="transformer.ln_f", reads=dtype))
    return tuple(layers)


def with_times(fused: Sequence[Layer], recorded: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return the fused steps with the time of all that was recorded under their marks, and after them what was not.

    Parameters
    ----------
    fused
        From `fused_layers`.
    recorded
        The operators or kernels of a trace, each with the mark that it ran within as its module.
    """
    inside: dict[str | None, list[Layer]] = defaultdict(list)
    names = {layer.name for layer in fused}
    for layer in recorded:
        inside[layer.module if layer.module in names else None].append(layer)
    timed = []
    for layer in fused:
        parts = inside[layer.name]
        runs = max((len(part.times_ms) for part in parts), default=0)
        times = tuple(sum(part.times_ms[run] for part in parts if run < len(part.times_ms)) for run in range(runs))
        timed.append(dataclasses.replace(layer, times_ms=times, tactic=_kernels(parts)))
    return (*timed, *inside[None])


def _kernels(parts: Sequence[Layer]) -> str | None:
    """Return the name of the longest kernel (on a CPU: operator), and how many run beside it."""
    if not parts:
        return None
    longest = max(parts, key=lambda part: part.time_ms or 0.0)
    name = longest.tactic or longest.type
    return name if len(parts) == 1 else f"{name} and {len(parts) - 1} more"


def _embedding(model: LoweredModel, tokens: int, hidden: TensorFacts) -> Layer:
    tables = [model.embedding, *([] if model.position_embedding is None else [model.position_embedding])]
    return Layer(
        name="transformer.vocab_embedding",
        type="embedding" if len(tables) == 1 else "embedding + positions",
        kind="embedding",
        module="transformer.vocab_embedding",
        nodes=(node_name("transformer.vocab_embedding", "Gather"),),
        inputs=(TensorFacts(dtype="int32", shape=(tokens,)),),
        outputs=(hidden,),
        weights_bytes=sum(table.nbytes for table in tables),
        weights_dtype=hidden.dtype,
        flops=0,
        moved_bytes=(1 + len(tables)) * (hidden.nbytes or 0),
    )


def _product(
    name: str,
    product: Product,
    tokens: int,
    dtype: str | None,
    *,
    norm: str | None = None,
    gate: tuple[str, ...] = (),
    activation: str | None = None,
    added: bool = False,
    reads: str | None = None,
) -> Layer:
    weights = product.weights
    source = TensorFacts(dtype=reads or dtype, shape=(tokens, weights.in_features))
    result = TensorFacts(dtype=dtype, shape=(tokens, weights.out_features))
    words = [*(["norm"] if norm else []), "gated product" if gate else "product", *([activation] if activation else [])]
    nodes = (() if norm is None else (node_name(norm, _NORM_OPERATORS[product.norm_kind or "rms"]),)) + tuple(
        node_name(module, "MatMul") for module in (name, *gate)
    )
    moved = (source.nbytes or 0) + (2 if added else 1) * (result.nbytes or 0)
    return Layer(
        name=name,
        type=" + ".join([*words, *(["residual"] if added else [])]),
        kind="matmul",
        module=name,
        nodes=nodes,
        inputs=(source,),
        outputs=(result,),
        weights_bytes=product.nbytes,
        weights_dtype=_weights_dtype(product),
        flops=2 * tokens * weights.in_features * weights.out_features * (2 if gate else 1),
        moved_bytes=moved + product.nbytes,
    )


def _attention(name: str, model: LoweredModel, step: Step, cache_dtype: str | None) -> Layer:
    config, dtype = model.config, _name(model.dtype)
    tokens, keys = step.batch_size * step.new, step.past + step.new
    qkv = model.layers[0].qkv.weights.out_features
    heads, width = qkv // config.head_width, model.layers[0].dense.weights.in_features
    pair = (heads - width // config.head_width) * config.head_width  # of one token: keys and values
    source = TensorFacts(dtype=dtype, shape=(tokens, qkv))
    cache = TensorFacts(name="keys and values", dtype=cache_dtype, shape=(step.batch_size, keys, pair))
    result = TensorFacts(dtype=dtype, shape=(tokens, width))
    seen = step.past + (step.new + 1) / 2  # keys of one query, on average
    rotary = "rotary + " if model.cos is not None else ""
    return Layer(
        name=name,
        type=f"{rotary}cache update + attention",
        kind="attention",
        module=name,
        inputs=(source, cache),
        outputs=(result,),
        flops=round(4 * tokens * width * seen),
        moved_bytes=sum(tensor.nbytes or 0 for tensor in (source, cache, result)),
    )


def _weights_dtype(product: Product) -> str | None:
    kind = product.weights.kind
    if kind == "dense":
        return _name(product.weights.weight.dtype)
    return "float8_e4m3fn" if kind.startswith("fp8") else kind.partition("_")[0]


def _name(dtype: torch.dtype) -> str | None:
    return dtype_name(str(dtype).removeprefix("torch."))


__all__ = ["fused_layers", "with_times"]
