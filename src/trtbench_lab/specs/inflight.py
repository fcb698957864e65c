"""How a running batch is kept: its cache, its steps, and what of the cache is used again."""

from __future__ import annotations

from .options import option
from .spec import Spec


class InflightConfig(Spec):
    """Cache and steps of in-flight batching; what is left out follows from the engine and the memory that is free."""

    kv_cache_fraction: float | None = option(
        default=None,
        help="Share of the free memory that the K/V cache may take; none means the engine's kv_cache_memory on a GPU, "
        "and 0.5 of a CPU's.",
        minimum=0,
        maximum=1,
        flags=("--kv_cache_free_gpu_memory_fraction", "--kv_cache_free_gpu_mem_fraction"),
        group="cache",
    )
    kv_cache_bytes: int | None = option(
        default=None,
        help="Bytes that the K/V cache may take, in place of a share.",
        minimum=1,
        unit="bytes",
        group="cache",
    )
    enable_block_reuse: bool = option(
        default=True,
        help="Use cached blocks again for prompts that begin alike.",
        flags=("--kv_cache_enable_block_reuse",),
        group="cache",
        effect="Prompts that begin alike are taken in once.",
    )
    max_running: int | None = option(
        default=None,
        help="Most requests in the running batch; none means the engine's max_batch_size.",
        minimum=1,
        unit="requests",
        group="batching",
    )
    max_step_tokens: int | None = option(
        default=None,
        help="Most tokens of one step; none means the engine's max_num_tokens, or 8192 on a GPU and 512 on a CPU.",
        minimum=1,
        unit="tokens",
        group="batching",
        effect="Fewer: running requests wait less for prompts. More: prompts are taken in sooner.",
    )
