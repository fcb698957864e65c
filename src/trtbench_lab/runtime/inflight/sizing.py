"""Cache and steps of a running batch, worked out before anything is allocated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...backends.torch.gpu.memory_plan import budget_bytes
from ...specs import InflightConfig
from ..limits import EngineLimits
from .executor_runner import block_bytes, is_paged, not_paged, tokens_per_block_of
from .pool import PoolPlan, available_bytes, plan_pool
from .stepper import StepLimits

if TYPE_CHECKING:
    from ...backends.protocol import Executor
    from ...engine import Engine

_STEP_TOKENS = {"cuda": 8192, "cpu": 512}


def planned_pool(engine: Engine, executor: Executor, config: InflightConfig, *, sharing: int = 1) -> PoolPlan:
    """Work out the pool of one rank.

    Parameters
    ----------
    engine, executor, config
        The engine, this rank of it as loaded, and what was asked for.
    sharing
        Ranks that share the free memory of this one's device.

    Raises
    ------
    EngineError
        For an engine without a paged cache.
    RequestError
        When the budget does not hold a block.
    """
    if not is_paged(executor):
        raise not_paged(executor.backend)
    build, limits = engine.config.build_config, _limits(engine)
    tokens_per_block = tokens_per_block_of(executor, build.plugin_config.tokens_per_block)
    total_bytes = config.kv_cache_bytes
    free = available_bytes(executor.device) // sharing
    if executor.device.type == "cuda" and total_bytes is None and config.kv_cache_fraction is None:
        total_bytes = budget_bytes(build.kv_cache_memory, free)
    return plan_pool(
        block_bytes=block_bytes(executor, tokens_per_block),
        tokens_per_block=tokens_per_block,
        max_batch_size=_max_running(engine, config),
        max_seq_len=_max_seq_len(engine, limits),
        device=executor.device,
        fraction=config.kv_cache_fraction,
        total_bytes=total_bytes,
        free_bytes=free,
    )


def largest_step(engine: Engine, executor: Executor, config: InflightConfig, pool: PoolPlan) -> StepLimits:
    """Return the largest step over a pool."""
    build, limits = engine.config.build_config, _limits(engine)
    wanted = config.max_step_tokens or build.max_num_tokens or _STEP_TOKENS.get(executor.device.type, 8192)
    if build.max_num_tokens is not None:
        wanted = min(wanted, build.max_num_tokens)
    return StepLimits(
        max_batch_size=_max_running(engine, config),
        max_num_tokens=wanted,
        num_blocks=pool.num_blocks,
        tokens_per_block=pool.tokens_per_block,
        max_blocks_per_row=-(-_max_seq_len(engine, limits) // pool.tokens_per_block),
        vocab_size=limits.vocab_size,
    )


def _limits(engine: Engine) -> EngineLimits:
    return EngineLimits.from_configs(engine.config.pretrained_config, engine.config.build_config)


def _max_seq_len(engine: Engine, limits: EngineLimits) -> int:
    return int(limits.max_seq_len or engine.config.pretrained_config.max_position_embeddings)


def _max_running(engine: Engine, config: InflightConfig) -> int:
    most = engine.config.build_config.max_batch_size
    return min(config.max_running or most, most)
