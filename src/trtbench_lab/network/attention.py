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
        heads, kv_heads = self.num_heads, self.num_kv_heads
        # One reshape for all three, and one rotation for two of them: nodes of a decode step cost more than their work.
        packed = ops.split_heads(self.qkv(x), heads + 2 * kv_heads)  # (B, H, T, D)
        if step.cos is None or step.sin is None:
            query, key, value = ops.split(packed, [heads, kv_heads, kv_heads], 1)
        else:
            turned, value = ops.split(packed, [heads + kv_heads, kv_heads], 1)
            turned = ops.rotary_embedding(turned, step.cos, step.sin, self.interleaved)
            query, key = ops.split(turned, [heads, kv_heads], 1)
        key = ops.kv_cache_update(past_key, key, step.write_indices)
        value = ops.kv_cache_update(past_value, value, step.write_indices)
        context = self._attended(query * self.query_scale, key, value, step.mask)  # (B, H, T, D)
        return self.dense(ops.merge_heads(context)), key, value

    def _attended(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        return ops.attention(query, key, value, mask)
