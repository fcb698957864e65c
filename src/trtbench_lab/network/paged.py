"""The decoder over a paged cache: packed tokens of ragged rows, keys and values found through block tables.

The same modules as the padded form's, and the same parameter names; attention is the plugins', which run as kernels on
a GPU, as their plain definition on a CPU, and become nodes with functions in an exported network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..plugins.gpt_attention import (
    ATTENTION,
    CACHE_UPDATE,
    COMBINE,
    ROTARY_CACHE_UPDATE,
    SPLIT_ATTENTION,
    AttentionShape,
    cache_kind,
)
from ..plugins.gpt_attention.plans import split_tile
from .decoder import Decoder, Hidden
from .linear import Linear
from .signature import PagedForm


@dataclass(frozen=True)
class PagedStep:
    """What all layers of one packed step share; see `backends.protocol` for the tensors.

    Attributes
    ----------
    position_ids, token_rows
        (N,) int32.
    query_starts, kv_lengths
        (B + 1,) and (B,) int32.
    block_tables
        (B, M) int32.
    cos, sin
        (positions, R) tables; None for models without rotation.
    unit_scale
        (1,) float32, one: the step of a cache that is not quantized.
    """

    position_ids: torch.Tensor
    token_rows: torch.Tensor
    query_starts: torch.Tensor
    kv_lengths: torch.Tensor
    block_tables: torch.Tensor
    cos: torch.Tensor | None
    sin: torch.Tensor | None
    unit_scale: torch.Tensor | None


class PagedAttention(nn.Module):
    """Project, rotate and write to the cache, attend, project back.

    Parameters
    ----------
    qkv, dense
        As for `attention.Attention`.
    shape
        Heads of this rank, rotation, window and block size.
    form
        How the cache is paged. A quantized one gives the layer a parameter ``kv_cache_scaling_factor`` (1,) float32.
    """

    keeps = ("kv_cache_scaling_factor",)

    def __init__(self, qkv: Linear, dense: Linear, shape: AttentionShape, form: PagedForm):
        super().__init__()
        self.qkv, self.dense, self.shape, self.form = qkv, dense, shape, form
        self.quantized = form.cache_dtype is not None
        if self.quantized:
            self.kv_cache_scaling_factor = nn.Parameter(torch.empty(1, dtype=torch.float32), requires_grad=False)
        self._sizes = {
            "num_heads": shape.num_heads,
            "num_kv_heads": shape.num_kv_heads,
            "head_size": shape.head_size,
            "tokens_per_block": shape.tokens_per_block,
        }

    def forward(self, x: torch.Tensor, step: PagedStep, kv_cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (N, hidden), kv_cache (P, 2, Hkv, bs, D) → (N, hidden) and the cache, changed in place."""
        scale = self.kv_cache_scaling_factor if self.quantized else step.unit_scale
        query, kv_cache = self._update(self.qkv(x), step, scale, kv_cache)
        inputs = (query, kv_cache, step.query_starts, step.kv_lengths, step.block_tables, scale)
        window = {"window": self.shape.window}
        if not self.form.splits:
            return self.dense(ATTENTION(*inputs, **self._sizes, **window)), kv_cache
        splits = {"splits": self.form.splits}
        tile = split_tile(self.shape, str(kv_cache.dtype).removeprefix("torch."))
        partial, weight = SPLIT_ATTENTION(*inputs, **self._sizes, **window, **splits, tile=tile)
        heads = {"num_heads": self.shape.num_heads, "head_size": self.shape.head_size}
        return self.dense(COMBINE(partial, weight, step.token_rows, query, **heads, **splits)), kv_cache

    def _update(self, qkv: torch.Tensor, step: PagedStep, scale: Any, kv_cache: torch.Tensor) -> Any:
        places = (step.position_ids, step.token_rows, step.block_tables, scale, kv_cache)
        kind = {"cache_kind": cache_kind(kv_cache.dtype)}
        if step.cos is None or step.sin is None:
            return CACHE_UPDATE(qkv, *places, **self._sizes, **kind)
        rotation = {"rotary_dim": self.shape.rotary_dim, "interleaved": int(self.shape.interleaved)}
        return ROTARY_CACHE_UPDATE(qkv, step.cos, step.sin, *places, **self._sizes, **kind, **rotation)


class PagedDecoder(Decoder):
    """One rank's part of a decoder-only model, over a paged cache.

    Parameters are those of `Decoder`, and `form`: how the cache is paged.
    """

    paged = True
    keeps = ("kv_unit_scale",)

    def __init__(self, *arguments: Any, form: PagedForm, **options: Any):
        self.form = form
        super().__init__(*arguments, **options)

    def rotary_tables(self) -> dict[str, torch.Tensor]:
        """Return the tensors that are computed rather than read: rotary tables, and the step of a plain cache."""
        tables = super().rotary_tables()
        if self.form.cache_dtype is None:
            tables["kv_unit_scale"] = torch.ones(1)
        return tables

    def forward(  # type: ignore[override]
        self,
        tokens: torch.Tensor,
        position_ids: torch.Tensor,
        token_rows: torch.Tensor,
        query_starts: torch.Tensor,
        kv_lengths: torch.Tensor,
        block_tables: torch.Tensor,
        logit_indices: torch.Tensor | None,
        caches: list[torch.Tensor],
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Run N new tokens of all rows together; the tensors are those of `backends.protocol`'s paged form.

        Parameters
        ----------
        tokens
            (N,) int32 token ids; on later pipeline stages (N, hidden) hidden states.
        caches
            kv_cache_0, kv_cache_1, … each (P, 2, Hkv, bs, D), changed in place when run eagerly.

        Returns
        -------
        logits (K, V) float32, or hidden states (N, hidden) before the last stage; and the caches.
        """
        x = tokens
        if self.mapping.is_first_pp_rank:
            x = self.transformer.vocab_embedding(tokens)  # (N, hidden)
            if self.learned_positions:
                x = x + self.transformer.position_embedding(position_ids)
        uses_rope = self.config.uses_rope
        step = PagedStep(
            position_ids,
            token_rows,
            query_starts,
            kv_lengths,
            block_tables,
            self.rotary_cos if uses_rope else None,
            self.rotary_sin if uses_rope else None,
            getattr(self, "kv_unit_scale", None),
        )
        presents = []
        hidden = Hidden(x)
        for number, layer in enumerate(self.transformer.layers):
            hidden, cache = layer(hidden, step, caches[number])
            presents.append(cache)
        if not self.mapping.is_last_pp_rank or logit_indices is None:
            return hidden.summed(), presents
        return self._logits(hidden.at(logit_indices)), presents

    def _attention(self, qkv: Linear, dense: Linear, **traits: Any) -> nn.Module:
        shape = AttentionShape(
            **traits,
            tokens_per_block=self.form.tokens_per_block,
            rotary_dim=self.config.rotary_dim if self.config.uses_rope else 0,
            window=self.config.sliding_window or 0,
        )
        return PagedAttention(qkv, dense, shape, self.form)
