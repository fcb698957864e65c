"""Optimization profiles: for which sizes TensorRT tunes its kernels, and how profiles are spread over plans.

TensorRT tunes kernels at a profile's `opt` sizes and lets them run from `min` to `max`. A prompt and a decode step
differ by three orders of magnitude in tokens, so each phase has profiles of its own; buckets of batch and prompt length
split them further, so that a small step does not run kernels chosen for a large one. The capacity of a padded cache is
a constant of the network, so each bucket of it is a plan of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...network.signature import (
    BATCH,
    BLOCKS,
    LENGTH,
    LOGITS,
    ROW_BLOCKS,
    ROWS,
    STARTS,
    TOKENS,
    TensorSpec,
)
from ...specs import BuildConfig
from .plan_layout import DECODE, PROMPT, PlanFile

_SHORT_PROMPT = 128

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Range:
    """Sizes of one dimension: what a profile allows, and what its kernels are tuned for."""

    min: int
    opt: int
    max: int


@dataclass(frozen=True)
class PhaseProfile:
    """One profile.

    Attributes
    ----------
    phase
        ``"prompt"`` or ``"decode"``.
    sizes
        Dynamic dimension (as in `network.signature`) → its range.
    """

    phase: str
    sizes: Mapping[str, Range]

    def shapes(self, spec: TensorSpec) -> tuple[Shape, Shape, Shape] | None:
        """Return the least, tuned and largest shape of an input, None when nothing of it is dynamic."""
        if not any(isinstance(size, str) for size in spec.shape):
            return None
        ranges = [Range(size, size, size) if isinstance(size, int) else self.sizes[size] for size in spec.shape]
        return tuple(one.min for one in ranges), tuple(one.opt for one in ranges), tuple(one.max for one in ranges)

    def __str__(self) -> str:
        sizes = (f"{name} {one.min} to {one.max}, best at {one.opt}" for name, one in self.sizes.items())
        return f"{self.phase}: {'; '.join(sizes)}"


@dataclass(frozen=True)
class PlannedFile:
    """One plan to build.

    Attributes
    ----------
    name
        Its file.
    capacity
        Slots of a cache row, None in the paged form.
    profiles
        In TensorRT's order.
    """

    name: str
    capacity: int | None
    profiles: tuple[PhaseProfile, ...]

    def described(self) -> PlanFile:
        """Return what the layout file says of it."""
        return PlanFile(self.name, self.capacity, tuple(profile.phase for profile in self.profiles))


def batch_buckets(config: BuildConfig) -> tuple[int, ...]:
    """Return the largest batch of each bucket, in order; by default one row alone, and all."""
    return _buckets(config.batch_buckets, (1,), config.max_batch_size * config.max_beam_width)


def length_buckets(config: BuildConfig) -> tuple[int, ...]:
    """Return the longest prompt of each bucket; by default 128 tokens where the limit is twice that, and the limit."""
    longest = config.max_input_len
    return _buckets(config.length_buckets, (_SHORT_PROMPT,) if longest >= 2 * _SHORT_PROMPT else (), longest)


def capacities(config: BuildConfig, max_seq_len: int) -> tuple[int, ...]:
    """Return the cache capacity of each plan, the whole `max_seq_len` last; by default that alone."""
    return _buckets(config.capacity_buckets, (), max_seq_len)


def padded_profiles(config: BuildConfig, capacity: int) -> list[PhaseProfile]:
    """Return the profiles of the padded form: prompts by length, then decode steps by batch."""
    batches = batch_buckets(config)
    rows = Range(1, min(config.max_batch_size, batches[-1]), batches[-1])
    profiles = []
    for longest in sorted({min(length, capacity) for length in length_buckets(config)}):
        logits = Range(1, 1, longest if config.gather_context_logits else 1)
        # From one token on: the last chunk of a long prompt may be of any length.
        profiles.append(PhaseProfile(PROMPT, {BATCH: rows, LENGTH: Range(1, longest, longest), LOGITS: logits}))
    one = Range(1, 1, 1)
    fewest = 1
    for most in batches:
        profiles.append(PhaseProfile(DECODE, {BATCH: Range(fewest, most, most), LENGTH: one, LOGITS: one}))
        fewest = most + 1
    return profiles


def paged_profiles(config: BuildConfig, max_seq_len: int) -> list[PhaseProfile]:
    """Return the profiles of the packed, paged form: steps that hold prompt tokens, then decode steps by rows."""
    block = config.plugin_config.tokens_per_block
    batches = batch_buckets(config)
    row_blocks = -(-max_seq_len // block)
    pool = batches[-1] * row_blocks + 1  # block 0 takes what padding writes
    most_tokens = max(config.max_num_tokens or batches[-1] * config.max_input_len, batches[-1])
    shared = {ROW_BLOCKS: Range(1, row_blocks, row_blocks), BLOCKS: Range(2, pool, pool)}
    profiles = []
    for longest in length_buckets(config):
        tokens = min(most_tokens, longest * batches[-1])
        wanted = tokens if config.gather_context_logits else batches[-1]
        sizes = {
            TOKENS: Range(1, tokens, tokens),
            ROWS: Range(1, batches[-1], batches[-1]),
            STARTS: Range(2, batches[-1] + 1, batches[-1] + 1),
            LOGITS: Range(1, min(batches[-1], wanted), wanted),
        }
        profiles.append(PhaseProfile(PROMPT, {**sizes, **shared}))
    fewest = 1
    for most in batches:
        rows = Range(fewest, most, most)
        starts = Range(fewest + 1, most + 1, most + 1)
        profiles.append(PhaseProfile(DECODE, {TOKENS: rows, ROWS: rows, STARTS: starts, LOGITS: rows, **shared}))
        fewest = most + 1
    return profiles


def planned_files(
    profiles: Sequence[PhaseProfile], rank: int, capacity: int | None, *, largest: bool, separate: bool
) -> list[PlannedFile]:
    """Put the profiles of one network into one plan, or into one for each phase.

    The plan of the largest capacity, or its prompt phase, is ``rank{R}.engine``.
    """
    stem = f"rank{rank}" if largest else f"rank{rank}.s{capacity}"
    if not separate:
        return [PlannedFile(f"{stem}.engine", capacity, tuple(profiles))]
    by_phase = {phase: tuple(one for one in profiles if one.phase == phase) for phase in (PROMPT, DECODE)}
    return [
        PlannedFile(f"{stem}.engine", capacity, by_phase[PROMPT]),
        PlannedFile(f"{stem}.decode.engine", capacity, by_phase[DECODE]),
    ]


def _buckets(given: Iterable[int] | None, default: Iterable[int], largest: int) -> tuple[int, ...]:
    """Sorted, without what lies beyond `largest`, which is always the last."""
    wanted = default if given is None else given
    return (*sorted({size for size in wanted if 0 < size < largest}), largest)
