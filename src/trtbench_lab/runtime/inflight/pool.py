"""How much memory the cache gets: worked out before it is allocated, and told."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...errors import RequestError

DEFAULT_FRACTION = 0.9
# A CPU's memory is also everybody else's; and blocks that nobody can fill are never allocated anyway.
DEFAULT_CPU_FRACTION = 0.5


@dataclass(frozen=True)
class PoolPlan:
    """The pool of cache blocks.

    Attributes
    ----------
    num_blocks, tokens_per_block, block_bytes
        Blocks (the sink included), tokens and bytes of each.
    free_bytes
        What the device had free when this was planned.
    reason
        What set the number, as a sentence.
    """

    num_blocks: int
    tokens_per_block: int
    block_bytes: int
    free_bytes: int
    reason: str

    @property
    def total_bytes(self) -> int:
        """Bytes that will be allocated."""
        return self.num_blocks * self.block_bytes

    @property
    def tokens(self) -> int:
        """Tokens that sequences can keep in it together."""
        return (self.num_blocks - 1) * self.tokens_per_block

    def __str__(self) -> str:
        return (
            f"K/V cache: {self.num_blocks - 1} blocks of {self.tokens_per_block} tokens = {self.tokens} tokens, "
            f"{self.total_bytes / 2**30:.2f} GiB of {self.free_bytes / 2**30:.2f} GiB free. {self.reason}"
        )


def plan_pool(
    *,
    block_bytes: int,
    tokens_per_block: int,
    max_batch_size: int,
    max_seq_len: int,
    device: torch.device,
    fraction: float | None = None,
    total_bytes: int | None = None,
    free_bytes: int | None = None,
) -> PoolPlan:
    """Work out the pool's size.

    Parameters
    ----------
    block_bytes, tokens_per_block
        Of one block, over all layers.
    max_batch_size, max_seq_len
        More than their product never helps: that many tokens fit for sure.
    fraction
        Share of the device's free memory to use; None: 0.9 of a GPU's, 0.5 of a CPU's.
    total_bytes
        Bytes to use, in place of a share.
    free_bytes
        Memory that is free now; None: ask the device.

    Raises
    ------
    RequestError
        When both budgets are given, one is out of range, or the budget does not hold one block beside the sink.
    """
    if fraction is not None and total_bytes is not None:
        raise RequestError(
            "Both a share and a number of bytes were given for the cache.",
            where="kv_cache_fraction, kv_cache_bytes",
            remedy="Give one of them.",
        )
    if fraction is not None and not 0.0 < fraction <= 1.0:
        raise RequestError(
            f"A share of {fraction:g} is not possible.", where="kv_cache_fraction", remedy="Use more than 0, at most 1."
        )
    free = available_bytes(device) if free_bytes is None else free_bytes
    share = fraction if fraction is not None else (DEFAULT_FRACTION if device.type == "cuda" else DEFAULT_CPU_FRACTION)
    budget = total_bytes if total_bytes is not None else int(free * share)
    if total_bytes is not None and total_bytes > free:
        raise RequestError(
            f"The cache was to take {total_bytes / 2**30:.2f} GiB, and {free / 2**30:.2f} GiB are free on {device}.",
            where="kv_cache_bytes",
            remedy="Ask for less, or free memory on the device.",
        )
    full = max_batch_size * -(-max_seq_len // tokens_per_block) + 1
    by_budget = budget // block_bytes
    if by_budget < 2:
        raise RequestError(
            f"The budget of {budget / 2**20:.1f} MiB does not hold one cache block of {block_bytes / 2**20:.1f} MiB "
            "beside the one for padding.",
            where="kv_cache_bytes" if total_bytes is not None else "kv_cache_fraction",
            remedy="Give the cache more memory, or build with a smaller tokens_per_block.",
        )
    if full <= by_budget:
        reason = f"That holds max_batch_size {max_batch_size} sequences of max_seq_len {max_seq_len}."
        return PoolPlan(full, tokens_per_block, block_bytes, free, reason)
    given = f"{budget / 2**30:.2f} GiB" if total_bytes is not None else f"{share:.0%} of the free memory"
    reason = f"The budget of {given} set it; {full - 1} blocks would hold {max_batch_size} sequences of {max_seq_len}."
    return PoolPlan(by_budget, tokens_per_block, block_bytes, free, reason)


def available_bytes(device: torch.device) -> int:
    """Memory that can be allocated on `device` now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch's allocator holds and nothing uses is free to us too.
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil

    return int(psutil.virtual_memory().available)
