"""What the attention of one model looks like, and the cache that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...errors import SpecError

CACHE_KINDS = {"int8": 1, "float8_e4m3fn": 2}
"""Types of a cache that is quantized, and their number in the kernels; all others hold what is computed."""


@dataclass(frozen=True)
class AttentionShape:
    """Sizes and habits that all layers of one rank share.

    Attributes
    ----------
    num_heads, num_kv_heads
        Query and K/V heads of this rank; the first a multiple of the second.
    head_size
        Width of a head.
    tokens_per_block
        Tokens a block of the cache holds.
    rotary_dim
        Elements of a head that positions rotate, even; 0 for models without rotation.
    interleaved
        True pairs elements (2i, 2i+1), as GPT-J; False pairs (i, i + rotary_dim / 2), as GPT-NeoX and LLaMA.
    window
        Keys that a token sees, itself included; 0 means all before it.
    """

    num_heads: int
    num_kv_heads: int
    head_size: int
    tokens_per_block: int
    rotary_dim: int = 0
    interleaved: bool = False
    window: int = 0

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise SpecError(
                f"{self.num_heads} query heads cannot share {self.num_kv_heads} K/V heads evenly.",
                where="gpt_attention",
                remedy="num_attention_heads must be a multiple of num_key_value_heads.",
            )
        if self.rotary_dim % 2 or self.rotary_dim > self.head_size:
            raise SpecError(
                f"{self.rotary_dim} of {self.head_size} elements cannot be rotated in pairs.",
                where="gpt_attention",
                remedy="rotary_dim is even and at most head_size.",
            )

    @property
    def scale(self) -> float:
        """Factor of the scores."""
        return self.head_size**-0.5

    @property
    def group(self) -> int:
        """Query heads of one K/V head."""
        return self.num_heads // self.num_kv_heads

    @property
    def packed_width(self) -> int:
        """Width of a token's queries, keys and values together."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_size

    @property
    def query_width(self) -> int:
        """Width of a token's queries."""
        return self.num_heads * self.head_size

    def pool_shape(self, num_blocks: int) -> tuple[int, int, int, int, int]:
        """Shape of one layer's pool: (P, 2, Hkv, tokens_per_block, head_size)."""
        return (num_blocks, 2, self.num_kv_heads, self.tokens_per_block, self.head_size)


def cache_kind(dtype: torch.dtype | str) -> int:
    """Return the kernels' number of a cache type: 0 unless it is quantized."""
    return CACHE_KINDS.get(str(dtype).removeprefix("torch."), 0)
