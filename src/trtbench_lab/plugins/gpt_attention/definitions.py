"""The attention plugins: what the torch ops, kernels, ONNX functions and TensorRT plugins are made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..frame import Attributes, Call, Launch, Operand, Plugin
from . import plans, reference
from .onnx_bodies import ATTENTION_BODY, COMBINE_BODY, SPLIT_BODY, cache_update_body
from .shape import CACHE_KINDS, AttentionShape

_KERNELS = "trtbench_lab.plugins.gpt_attention.kernels"
_SWITCHES = ("gpt_attention_plugin",)
_FLOATS = ("float32", "float16", "bfloat16")
_SIZES = {"num_heads": int, "num_kv_heads": int, "head_size": int, "tokens_per_block": int}


def shape_of(attributes: Attributes) -> AttentionShape:
    """Return the shape that a plugin's attributes describe."""
    known = ("num_heads", "num_kv_heads", "head_size", "tokens_per_block", "rotary_dim", "window")
    values: dict[str, Any] = {name: int(attributes[name]) for name in known if name in attributes}
    return AttentionShape(**values, interleaved=bool(attributes.get("interleaved", 0)))


def _pairs() -> list[tuple[str, str]]:
    """Types of the computation and of the cache that go together."""
    return [(dtype, cache) for dtype in _FLOATS for cache in (dtype, *CACHE_KINDS)]


# --- rotate and write the cache ---


def _update_reference(rotary: bool) -> Any:
    def run(
        qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, position_ids: torch.Tensor, token_rows: torch.Tensor,
        block_tables: torch.Tensor, kv_scale: torch.Tensor, kv_cache: torch.Tensor, **attributes: Any,
    ) -> torch.Tensor:  # fmt: skip
        shape = shape_of(attributes)
        return reference.cache_update(qkv, cos, sin, position_ids, token_rows, block_tables, kv_scale, kv_cache, shape)

    def without(
        qkv: torch.Tensor, position_ids: torch.Tensor, token_rows: torch.Tensor, block_tables: torch.Tensor,
        kv_scale: torch.Tensor, kv_cache: torch.Tensor, **attributes: Any,
    ) -> torch.Tensor:  # fmt: skip
        shape = shape_of(attributes)
        return reference.cache_update(
            qkv, None, None, position_ids, token_rows, block_tables, kv_scale, kv_cache, shape
        )

    return run if rotary else without


def _update_results(operands: Sequence[Operand], attributes: Attributes) -> tuple[Operand, ...]:
    qkv = operands[0]
    width = int(attributes["num_heads"]) * int(attributes["head_size"])
    return Operand((qkv.shape[0], width), qkv.dtype), operands[-1]


def _update_plan(call: Call) -> Launch:
    tables, cache = call.inputs[-3], call.inputs[-1]
    plan = plans.update_plan(shape_of(call.attributes), cache.dtype, call.inputs[0].shape[0], tables.shape[1])
    return plan if "rotary_dim" in call.attributes else plans.without_rotation(plan)


def _update_plugin(rotary: bool) -> Plugin:
    tables = ("cos", "sin") if rotary else ()
    types = []
    for dtype, cache in _pairs():
        for table in dict.fromkeys((dtype, "float32")) if rotary else ("",):
            types.append((dtype, *[table] * len(tables), *["int32"] * 3, "float32", cache, dtype, cache))
    attributes: dict[str, type] = {**_SIZES, "cache_kind": int}
    if rotary:
        attributes |= {"rotary_dim": int, "interleaved": int}
    return Plugin(
        name="gpt_rotary_cache_update" if rotary else "gpt_cache_update",
        op_type="GptRotaryCacheUpdate" if rotary else "GptCacheUpdate",
        inputs=("qkv", *tables, "position_ids", "token_rows", "block_tables", "kv_scale", "kv_cache"),
        outputs=("query", "kv_cache_out"),
        attributes=attributes,
        types=tuple(types),
        reference=_update_reference(rotary),
        results=_update_results,
        plan=_update_plan,
        kernels=_KERNELS,
        onnx_body=cache_update_body(rotary),
        switches=_SWITCHES,
        replaces="rotation of queries and keys, quantization, and writing keys and values into the paged cache"
        if rotary
        else "quantization, and writing keys and values into the paged cache",
        aliases={"kv_cache_out": "kv_cache"},
    )


# --- attend ---


def _attention_reference(
    query: torch.Tensor, kv_cache: torch.Tensor, query_starts: torch.Tensor, kv_lengths: torch.Tensor,
    block_tables: torch.Tensor, kv_scale: torch.Tensor, **attributes: Any,
) -> torch.Tensor:  # fmt: skip
    shape = shape_of(attributes)
    return reference.attention(query, kv_cache, query_starts, kv_lengths, block_tables, kv_scale, shape)


def _attention_results(operands: Sequence[Operand], attributes: Attributes) -> tuple[Operand, ...]:
    return (operands[0],)


def _attention_plan(call: Call) -> Launch:
    query, lengths, tables = call.inputs[0], call.inputs[3], call.inputs[4]
    return plans.flash_plan(shape_of(call.attributes), query.dtype, query.shape[0], lengths.shape[0], tables.shape[1])


def _split_reference(
    query: torch.Tensor, kv_cache: torch.Tensor, query_starts: torch.Tensor, kv_lengths: torch.Tensor,
    block_tables: torch.Tensor, kv_scale: torch.Tensor, **attributes: Any,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    shape, splits, tile = shape_of(attributes), int(attributes["splits"]), int(attributes["tile"])
    return reference.attention_parts(
        query, kv_cache, query_starts, kv_lengths, block_tables, kv_scale, shape, splits, tile
    )


def _split_results(operands: Sequence[Operand], attributes: Attributes) -> tuple[Operand, ...]:
    parts = (operands[3].shape[0], int(attributes["num_heads"]), int(attributes["splits"]))
    return Operand((*parts, int(attributes["head_size"])), "float32"), Operand(parts, "float32")


def _split_plan(call: Call) -> Launch:
    lengths, tables = call.inputs[3], call.inputs[4]
    return plans.split_plan(
        shape_of(call.attributes), call.inputs[1].dtype, lengths.shape[0], tables.shape[1],
        int(call.attributes["splits"]), int(call.attributes["tile"]),
    )  # fmt: skip


def _combine_reference(
    partial: torch.Tensor, weight: torch.Tensor, token_rows: torch.Tensor, query: torch.Tensor, **attributes: Any
) -> torch.Tensor:
    return reference.combine(partial, weight, token_rows, query.dtype)


def _combine_results(operands: Sequence[Operand], attributes: Attributes) -> tuple[Operand, ...]:
    return (operands[3],)


def _combine_plan(call: Call) -> Launch:
    return plans.combine_plan(
        int(call.attributes["num_heads"]), int(call.attributes["head_size"]), call.inputs[3].shape[0],
        int(call.attributes["splits"]),
    )  # fmt: skip


_ATTENTION_INPUTS = ("query", "kv_cache", "query_starts", "kv_lengths", "block_tables", "kv_scale")
CACHE_UPDATE = _update_plugin(rotary=False)
ROTARY_CACHE_UPDATE = _update_plugin(rotary=True)
ATTENTION = Plugin(
    name="gpt_attention",
    op_type="GptAttention",
    inputs=_ATTENTION_INPUTS,
    outputs=("context",),
    attributes={**_SIZES, "window": int},
    types=tuple((dtype, cache, *["int32"] * 3, "float32", dtype) for dtype, cache in _pairs()),
    reference=_attention_reference,
    results=_attention_results,
    plan=_attention_plan,
    kernels=_KERNELS,
    onnx_body=ATTENTION_BODY,
    switches=_SWITCHES,
    replaces="attention of packed tokens over the paged cache: flash attention, prompts and single tokens together",
)
SPLIT_ATTENTION = Plugin(
    name="gpt_attention_split",
    op_type="GptAttentionSplit",
    inputs=_ATTENTION_INPUTS,
    outputs=("partial", "weight"),
    attributes={**_SIZES, "window": int, "splits": int, "tile": int},
    types=tuple((dtype, cache, *["int32"] * 3, *["float32"] * 3) for dtype, cache in _pairs()),
    reference=_split_reference,
    results=_split_results,
    plan=_split_plan,
    kernels=_KERNELS,
    onnx_body=SPLIT_BODY,
    switches=_SWITCHES,
    replaces="attention of one new token a row, its keys split over programs (multi_block_mode): the parts",
)
COMBINE = Plugin(
    name="gpt_attention_combine",
    op_type="GptAttentionCombine",
    inputs=("partial", "weight", "token_rows", "query"),
    outputs=("context",),
    attributes={"num_heads": int, "head_size": int, "splits": int},
    types=tuple(("float32", "float32", "int32", dtype, dtype) for dtype in _FLOATS),
    reference=_combine_reference,
    results=_combine_results,
    plan=_combine_plan,
    kernels=_KERNELS,
    onnx_body=COMBINE_BODY,
    switches=_SWITCHES,
    replaces="the weighing of the parts of split attention",
)
PLUGINS = (CACHE_UPDATE, ROTARY_CACHE_UPDATE, ATTENTION, SPLIT_ATTENTION, COMBINE)
