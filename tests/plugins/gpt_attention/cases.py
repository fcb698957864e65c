"""Batches for attention tests: ragged rows in scattered blocks, with garbage wherever nobody may look."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trtbench_lab.plugins.gpt_attention.reference import store_as
from trtbench_lab.plugins.gpt_attention.shape import AttentionShape

GARBAGE = (float("nan"), float("inf"), -float("inf"))


@dataclass
class Batch:
    """One step of a paged engine's attention.

    `history` holds the whole keys and values (before storing) of every row up to its length; the cache has those of
    the tokens before the step, the step's own come in `qkv`.
    """

    shape: AttentionShape
    qkv: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    position_ids: torch.Tensor
    token_rows: torch.Tensor
    query_starts: torch.Tensor
    kv_lengths: torch.Tensor
    block_tables: torch.Tensor
    kv_scale: torch.Tensor
    kv_cache: torch.Tensor

    def to(self, device: str) -> Batch:
        moved = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in vars(self).items()
        }
        return Batch(**moved)

    @property
    def num_tokens(self) -> int:
        return self.qkv.shape[0]

    def query(self) -> torch.Tensor:
        """An output of the queries' shape, poisoned."""
        return self.qkv.new_full((self.num_tokens, self.shape.query_width), float("nan"))


def make_batch(
    shape: AttentionShape,
    rows: list[tuple[int, int]],
    *,
    dtype: torch.dtype = torch.float32,
    cache_dtype: torch.dtype | None = None,
    padding_tokens: int = 0,
    spare_columns: int = 1,
    seed: int = 0,
    table_dtype: torch.dtype = torch.float32,
) -> Batch:
    """Make a step in which row i has ``rows[i] = (tokens already cached, new tokens)``; (0, 0) is an empty row.

    Blocks are dealt out in random order. Every slot that holds no earlier token, whole unused blocks and block 0 too,
    holds NaN and infinities (the largest number of an integer cache).
    """
    generator = torch.Generator().manual_seed(seed)
    cache_dtype = cache_dtype or dtype
    block = shape.tokens_per_block
    lengths = [past + new for past, new in rows]
    needed = [-(-length // block) for length in lengths]
    num_blocks = sum(needed) + 3
    order = (torch.randperm(num_blocks - 1, generator=generator) + 1).tolist()  # block 0 is nobody's
    columns = max([*needed, 1]) + spare_columns
    tables = torch.zeros(len(rows), columns, dtype=torch.int32)
    for row, count in enumerate(needed):
        tables[row, :count] = torch.tensor([order.pop() for _ in range(count)], dtype=torch.int32)

    scale = torch.ones(1)
    if cache_dtype == torch.int8:
        scale = torch.tensor([4.0 / 127])
    elif cache_dtype == torch.float8_e4m3fn:
        scale = torch.tensor([4.0 / 448])
    wide = torch.empty(shape.pool_shape(num_blocks)).fill_(float("nan"))
    flat = wide.view(-1)
    flat[::3], flat[1::7] = GARBAGE[1], GARBAGE[2]
    cache = wide.to(cache_dtype) if cache_dtype != torch.int8 else torch.full(wide.shape, 127, dtype=torch.int8)
    for row, (past, _) in enumerate(rows):
        slots = torch.arange(past)
        x = torch.randn(past, 2, shape.num_kv_heads, shape.head_size, generator=generator)
        cache[tables[row, slots // block].long(), :, :, slots % block] = store_as(x, scale, cache_dtype)

    counts = [new for _, new in rows]
    total = sum(counts) + padding_tokens
    positions = [past + i for past, new in rows for i in range(new)] + [0] * padding_tokens
    token_rows = [row for row, new in enumerate(counts) for _ in range(new)] + [-1] * padding_tokens
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    qkv = torch.randn(total, shape.packed_width, generator=generator).to(dtype)
    half = max(1, shape.rotary_dim // 2)
    angles = torch.outer(torch.arange(max([*lengths, 1])).float(), 1.0 / 10000 ** (torch.arange(half) / half))
    int32 = torch.int32
    return Batch(
        shape, qkv, angles.cos().to(table_dtype), angles.sin().to(table_dtype),
        torch.tensor(positions, dtype=int32), torch.tensor(token_rows, dtype=int32),
        torch.tensor(starts, dtype=int32), torch.tensor(lengths, dtype=int32), tables, scale, cache,
    )  # fmt: skip
