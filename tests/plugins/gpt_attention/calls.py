"""The calls of each attention plugin that make one step."""

from __future__ import annotations

from typing import Any

import torch
from tests.plugins.gpt_attention.cases import Batch

from trtbench_lab.plugins.frame import Plugin
from trtbench_lab.plugins.gpt_attention import CACHE_UPDATE, ROTARY_CACHE_UPDATE, cache_kind

Call = tuple[Plugin, list[torch.Tensor], dict[str, Any]]


def sizes(batch: Batch) -> dict[str, int]:
    shape = batch.shape
    return {
        "num_heads": shape.num_heads,
        "num_kv_heads": shape.num_kv_heads,
        "head_size": shape.head_size,
        "tokens_per_block": shape.tokens_per_block,
    }


def update_call(batch: Batch) -> Call:
    """Rotate and write; the plugin without tables for shapes that do not rotate."""
    attributes = {**sizes(batch), "cache_kind": cache_kind(batch.kv_cache.dtype)}
    rest = [batch.position_ids, batch.token_rows, batch.block_tables, batch.kv_scale, batch.kv_cache]
    if batch.shape.rotary_dim == 0:
        return CACHE_UPDATE, [batch.qkv, *rest], attributes
    attributes |= {"rotary_dim": batch.shape.rotary_dim, "interleaved": int(batch.shape.interleaved)}
    return ROTARY_CACHE_UPDATE, [batch.qkv, batch.cos, batch.sin, *rest], attributes


def attention_inputs(batch: Batch, query: torch.Tensor, kv_cache: torch.Tensor) -> list[torch.Tensor]:
    return [query, kv_cache, batch.query_starts, batch.kv_lengths, batch.block_tables, batch.kv_scale]
