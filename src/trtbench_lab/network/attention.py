"""Cached self-attention: project, rotate, append to the cache, attend, project back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from . import ops
from .linear import Linear


@dataclass(frozen=True)
class StepContext:
    """What all layers of one step share.

    Attributes
    ----------
    write_indices
        (B,) int64: tokens already in each row's cache.
    mask
        (B, 1, T, S) bool, True where a query sees a key.
    cos, sin
        (B, T, R) rotary factors of the new tokens; None for models without rotation.
    """

    write_indices: torch.Tensor
    mask: torch.Tensor
    cos: torch.Tensor | None
    sin: torch.Tensor | None


class Attention(nn.Module):
    """Multi-head, grouped-query or multi-query attention over a cache that the caller owns.

    Parameters
    ----------
    qkv
        hidden → (heads + 2 · kv_heads) · head_size, the three parts one after another.
    dense
        heads · head_size → hidden.
    num_heads, num_kv_heads, head_size
        Extents on this rank.
    interleaved
        Which elements rotate together (see `ops.rotary_embedding`).
    """

    def __init__(
        self, qkv: Linear, dense: Linear, *, num_heads: int, num_kv_heads: int, head_size: int, interleaved: bool
    ):
        super().__init__()
        self.qkv, self.dense = qkv, dense
        self.num_heads, self.num_kv_heads, self.head_size = num_heads, num_kv_heads, head_size
        self.interleaved = interleaved
        self.query_scale = head_size**-0.5

    def forward(
        self, x: torch.Tensor, step: StepContext, past_key: torch.Tensor, past_value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        sizes = [heads * self.head_size for heads in (self.num_heads, self.num_kv_heads, self.num_kv_heads)]
        query, key, value = ops.split_last(self.qkv(x), sizes)  # (B, T, H · D) each
        if step.cos is not None and step.sin is not None:
            query = ops.rotary_embedding(query, step.cos, step.sin, self.num_heads, self.interleaved)
            key = ops.rotary_embedding(key, step.cos, step.sin, self.num_kv_heads, self.interleaved)
        key = ops.kv_cache_update(past_key, ops.split_heads(key, self.num_kv_heads), step.write_indices)
        value = ops.kv_cache_update(past_value, ops.split_heads(value, self.num_kv_heads), step.write_indices)
        query = ops.split_heads(query * self.query_scale, self.num_heads)
        context = ops.attention(query, key, value, step.mask)  # (B, H, T, D)
        return self.dense(ops.merge_heads(context)), key, value
