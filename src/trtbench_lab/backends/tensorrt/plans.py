"""Which plans an engine has, and which network each is parsed from."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import EngineError
from ...network.signature import kv_heads_per_rank
from ...specs import BuildConfig, ModelConfig
from .plan_layout import DECODE, PADDED
from .profiles import PlannedFile, batch_buckets, capacities, padded_profiles, paged_profiles, planned_files
from .resolution import form_of

PROGRAMS_TO_FILL = 264
"""Programs of a decode step that keep a large GPU busy: two for each of 132 multiprocessors."""
MOST_SPLITS = 32


def plans_of(options: BuildConfig, config: ModelConfig, rank: int) -> list[list[PlannedFile]]:
    """Return the plans to build, those of one network together, the largest cache first."""
    separate = options.phase_engines == "two"
    max_seq_len = options.resolved_max_seq_len(config)
    if form_of(options) != PADDED:
        files = planned_files(paged_profiles(options, max_seq_len), rank, None, largest=True, separate=separate)
        return [[one] for one in files]  # the phases' networks may differ
    held = capacities(options, max_seq_len)
    return [
        planned_files(
            padded_profiles(options, capacity), rank, capacity, largest=capacity == held[-1], separate=separate
        )
        for capacity in reversed(held)
    ]


def splits_of(options: BuildConfig, config: ModelConfig, files: Sequence[PlannedFile]) -> int:
    """Return over how many programs a paged network divides the keys of a row: 0 where it takes prompts too.

    A plan for decode steps alone divides long rows, unless batch and heads fill the GPU already.
    """
    plugins = options.plugin_config
    alone = all(profile.phase == DECODE for one in files for profile in one.profiles)
    if form_of(options) == PADDED or not alone or plugins.multi_block_mode == "disable":
        return 0
    programs = max(batch_buckets(options)) * kv_heads_per_rank(config, config.mapping)
    splits = 1
    while programs * splits < PROGRAMS_TO_FILL and splits < MOST_SPLITS:
        splits *= 2
    return splits if splits > 1 else 0


def network_variant(options: BuildConfig, config: ModelConfig, rank: int, file: str) -> tuple[int | None, int]:
    """Return the cache capacity and the splits (see `splits_of`) of the network that the plan `file` comes from.

    Raises
    ------
    EngineError
        When an engine with these options has no such plan.
    """
    for files in plans_of(options, config, rank):
        if any(one.name == file for one in files):
            return files[0].capacity, splits_of(options, config, files)
    raise EngineError(
        f"The engine's options make no plan {file!r}.", where="engine folder", remedy="Build the engine again."
    )
