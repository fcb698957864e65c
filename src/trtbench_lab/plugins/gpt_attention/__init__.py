"""Attention over a paged cache (`gpt_attention_plugin`): cache update, flash attention, split K/V decode."""

from .definitions import ATTENTION, CACHE_UPDATE, COMBINE, PLUGINS, ROTARY_CACHE_UPDATE, SPLIT_ATTENTION
from .shape import AttentionShape, cache_kind

__all__ = [
    "ATTENTION",
    "CACHE_UPDATE",
    "COMBINE",
    "PLUGINS",
    "ROTARY_CACHE_UPDATE",
    "SPLIT_ATTENTION",
    "AttentionShape",
    "cache_kind",
]
