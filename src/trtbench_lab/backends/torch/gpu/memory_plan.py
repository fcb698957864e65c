"""How much of the GPU the K/V cache takes: settled before anything is allocated, and told."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ....errors import EngineError
from ....network.signature import kv_heads_per_rank
from ....specs import BuildConfig, ModelConfig

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True)
class CachePlan:
    """The pool of one engine.

    Attributes
    ----------
    tokens_per_block
        Tokens a block holds; for a contiguous cache, a whole sequence.
    blocks_per_row
        Blocks of the longest sequence.
    num_blocks
        Blocks of the pool, the sink (block 0) included.
    block_bytes
        Of one block over all layers, keys and values.
    dtype
        Element type of the pool.
    sentence
        The plan in words.
    """

    tokens_per_block: int
    blocks_per_row: int
    num_blocks: int
    block_bytes: int
    dtype: torch.dtype
    sentence: str

    @property
    def nbytes(self) -> int:
        """Bytes of the pool."""
        return self.num_blocks * self.block_bytes


def cache_dtype(model: ModelConfig, build: BuildConfig) -> torch.dtype:
    """Return the element type of an engine's cache."""
    algo = model.quantization.kv_cache_quant_algo
    if algo is None:
        return getattr(torch, build.compute_dtype)  # type: ignore[no-any-return]
    return torch.int8 if str(algo.value) == "INT8" else torch.float8_e4m3fn


def plan_cache(model: ModelConfig, build: BuildConfig, free_bytes: int, *, contiguous: bool = False) -> CachePlan:
    """Return the pool of an engine on a device with `free_bytes` left beside the weights.

    The pool holds `max_batch_size` sequences of `max_seq_len` where the budget (``kv_cache_memory``: a fraction of what
    is free, or bytes) has room for them, and as many blocks as fit otherwise.

    Raises
    ------
    EngineError
        When not even one sequence fits.
    """
    dtype = cache_dtype(model, build)
    longest = build.resolved_max_seq_len(model)
    size = longest if contiguous else min(build.plugin_config.tokens_per_block, _power_above(longest))
    blocks_per_row = -(-longest // size)
    mapping = model.mapping
    heads, layers = kv_heads_per_rank(model, mapping), model.num_hidden_layers // mapping.pp_size
    block_bytes = layers * 2 * heads * size * model.head_width * dtype.itemsize
    budget = budget_bytes(build.kv_cache_memory, free_bytes)
    rows = build.max_batch_size * build.max_beam_width
    wanted = rows * blocks_per_row + 1
    fitting = budget // block_bytes
    num_blocks = min(wanted, fitting)
    if num_blocks < blocks_per_row + 1:
        raise EngineError(
            f"One sequence of {longest} tokens needs {(blocks_per_row + 1) * block_bytes / MIB:,.0f} MiB of K/V cache; "
            f"the budget is {budget / MIB:,.0f} MiB ({build.kv_cache_memory} with {free_bytes / MIB:,.0f} MiB free).",
            where="kv_cache_memory",
            remedy="Free GPU memory, raise kv_cache_memory, or build with a smaller max_seq_len or a quantized cache.",
        )
    kind = "one piece a sequence" if contiguous else f"{num_blocks} blocks of {size} tokens"
    held = (num_blocks - 1) * size // longest
    sentence = (
        f"K/V cache: {num_blocks * block_bytes / GIB:.2f} GiB of {str(dtype).removeprefix('torch.')} ({kind}), room "
        f"for {held} of {rows} sequences of {longest} tokens; budget {budget / GIB:.2f} GiB ({build.kv_cache_memory})."
    )
    return CachePlan(size, blocks_per_row, num_blocks, block_bytes, dtype, sentence)


def budget_bytes(setting: str, free_bytes: int) -> int:
    """Return the bytes that ``kv_cache_memory`` allows: ``"0.9"`` is a share of what is free, ``"20GiB"`` that much."""
    text = setting.strip()
    for suffix, factor in (("GiB", GIB), ("MiB", MIB), ("GB", 10**9), ("MB", 10**6), ("B", 1)):
        if text.endswith(suffix):
            return min(int(float(text.removesuffix(suffix)) * factor), free_bytes)
    value = float(text)
    return int(value * free_bytes) if value <= 1 else min(int(value), free_bytes)


def _power_above(size: int) -> int:
    return 1 << max(0, size - 1).bit_length()
