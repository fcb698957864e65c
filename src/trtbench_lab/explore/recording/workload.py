"""One step to run again and again: a decode step, or a prompt, with tensors of an engine's own signature."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...network.signature import (
    BATCH,
    BLOCKS,
    CAPACITY,
    LENGTH,
    LOGITS,
    ROW_BLOCKS,
    ROWS,
    STARTS,
    TOKENS,
)

if TYPE_CHECKING:
    import torch

    from ...backends.protocol import Executor

DECODE, PROMPT = "decode", "prompt"
_SEED = 20261


@dataclass(frozen=True)
class Step:
    """What is run.

    Attributes
    ----------
    phase
        ``"decode"``: one new token a row after `input_length` others. ``"prompt"``: `input_length` new tokens a row.
    batch_size, input_length
        Rows; tokens.
    """

    phase: str
    batch_size: int
    input_length: int

    @property
    def past(self) -> int:
        """Tokens of a row that are in the cache already."""
        return self.input_length if self.phase == DECODE else 0

    @property
    def new(self) -> int:
        """New tokens of a row."""
        return 1 if self.phase == DECODE else self.input_length

    def sizes(self, *, tokens_per_block: int = 64, capacity: int | None = None) -> dict[str, int]:
        """Return the dynamic dimensions of an engine's tensors in this step."""
        total = self.past + self.new
        blocks = -(-total // tokens_per_block)
        return {
            BATCH: self.batch_size,
            LENGTH: self.new,
            LOGITS: 1,
            CAPACITY: capacity or total,
            TOKENS: self.batch_size * self.new,
            ROWS: self.batch_size,
            STARTS: self.batch_size + 1,
            ROW_BLOCKS: blocks,
            BLOCKS: self.batch_size * blocks + 1,
        }


def bind_step(executor: Executor, step: Step) -> dict[str, torch.Tensor]:
    """Bind tensors for `step` to an executor and return them; the step may be run any number of times.

    Tokens and cache are random, and the same in every call. A run writes the same cache slots each time.

    Raises
    ------
    RequestError
        When the engine does not take such a step.
    """
    tensors = step_tensors(executor, step)
    for name, tensor in tensors.items():
        executor.bind(name, tensor)
    executor.run()  # once with the executor's checks
    executor.synchronize()
    return tensors


def step_tensors(executor: Executor, step: Step, *, like: Step | None = None) -> dict[str, torch.Tensor]:
    """Return what `bind_step` binds.

    With `like` the caches are left out, and tables fit those of that step.
    """
    import torch

    generator = torch.Generator().manual_seed(_SEED)
    paged = any(spec.name == "kv_cache_0" for spec in executor.io)
    sizes = _sizes(executor, step, paged=paged)
    if like is not None:
        held = _sizes(executor, like, paged=paged)
        sizes |= {name: held[name] for name in (CAPACITY, ROW_BLOCKS, BLOCKS)}
    tensors: dict[str, torch.Tensor] = {}
    for spec in executor.io:
        if spec.aliases is not None or (like is not None and spec.name.startswith(("past_", "kv_cache_"))):
            continue
        shape = [sizes[size] if isinstance(size, str) else size for size in spec.shape]
        if paged and spec.name == "logit_indices":
            shape = [step.batch_size]
        if paged and spec.name == "logits":
            shape[0] = step.batch_size
        tensors[spec.name] = _content(spec.name, spec.dtype, shape, executor, step, sizes, generator).to(
            executor.device
        )
    return tensors


@contextmanager
def unguarded(executor: Executor) -> Iterator[None]:
    """Run as generation does, without the executor's own checks, which on a GPU wait for the device in every run.

    The step must have run once with them.
    """
    before = executor.guards_writes
    executor.guards_writes = False
    try:
        yield
    finally:
        executor.guards_writes = before


def timed_runs(executor: Executor, num_runs: int, warm_up: int) -> tuple[float, ...]:
    """Return the milliseconds of whole runs of what is bound, after some that are not timed."""
    with unguarded(executor):
        return timed(executor.run, executor.synchronize, num_runs, warm_up)


def timed(
    run: Callable[[], object], synchronize: Callable[[], object], num_runs: int, warm_up: int
) -> tuple[float, ...]:
    """Return the milliseconds of `num_runs` runs, each until the device has finished, after `warm_up` others."""
    times = []
    for number in range(warm_up + num_runs):
        synchronize()
        begun = time.perf_counter_ns()
        run()
        synchronize()
        if number >= warm_up:
            times.append((time.perf_counter_ns() - begun) / 1e6)
    return tuple(times)


def random_prompts(step: Step, vocab_size: int) -> list[list[int]]:
    """Return `input_length` random tokens a row, the same in every call."""
    import torch

    generator = torch.Generator().manual_seed(_SEED)
    return torch.randint(vocab_size, (step.batch_size, step.input_length), generator=generator).tolist()  # type: ignore[no-any-return]


def _sizes(executor: Executor, step: Step, *, paged: bool) -> dict[str, int]:
    if paged:
        pool = next(spec for spec in executor.io if spec.name == "kv_cache_0")
        return step.sizes(tokens_per_block=int(pool.shape[3]))
    total = step.past + step.new
    offered = getattr(executor, "cache_capacities", ()) or (total,)
    capacity = next((size for size in sorted(offered) if size >= total), None)
    if capacity is None:
        raise RequestError(
            f"The step needs {total} cache slots a row, and the engine's caches have at most {max(offered)}.",
            where="input_length",
            remedy=f"Explore with an input_length of at most {max(offered) - 1}.",
        )
    return step.sizes(capacity=capacity)


def _content(
    name: str,
    dtype: str,
    shape: list[int],
    executor: Executor,
    step: Step,
    sizes: dict[str, int],
    generator: torch.Generator,
) -> torch.Tensor:
    """Return one tensor's content on the CPU."""
    import torch

    kind = getattr(torch, dtype)
    fill: dict[str, Callable[[], torch.Tensor]] = {
        # Drawn apart from the caches, whose sizes differ between engines.
        "input_ids": lambda: torch.randint(
            executor.config.vocab_size, shape, generator=torch.Generator().manual_seed(_SEED)
        ),
        "write_indices": lambda: torch.full(shape, step.past),
        "position_ids": lambda: torch.arange(step.past, step.past + step.new).repeat(step.batch_size),
        "token_rows": lambda: torch.arange(step.batch_size).repeat_interleave(step.new),
        "query_starts": lambda: torch.arange(step.batch_size + 1) * step.new,
        "kv_lengths": lambda: torch.full(shape, step.past + step.new),
        "block_tables": lambda: 1 + torch.arange(sizes[BLOCKS] - 1).reshape(shape),
    }
    if name == "logit_indices":
        packed = len(shape) == 1
        last = torch.arange(1, step.batch_size + 1) * step.new - 1 if packed else torch.full(shape, step.new - 1)
        return last.to(kind)
    if name in fill:
        return fill[name]().to(kind)
    if name in ("logits", "hidden_states_output"):
        return torch.zeros(shape, dtype=kind)
    if not kind.is_floating_point:
        return torch.randint(-8, 8, shape, generator=generator).to(kind)
    return (0.1 * torch.randn(shape, generator=generator)).to(kind)
