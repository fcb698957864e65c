"""A first run of a fresh engine: a short prompt, then one more token, so that no broken engine leaves its build."""

from __future__ import annotations

import torch

from ..errors import BuildError
from ..network.signature import BATCH, BLOCKS, CAPACITY, LENGTH, LOGITS, ROW_BLOCKS, ROWS, STARTS, TOKENS
from .protocol import Executor


def trial_run(executor: Executor, max_positions: int, *, prompt_length: int = 2) -> None:
    """Run a prompt and, where an engine of `max_positions` has room for it, one decode step.

    Raises
    ------
    BuildError
        When logits are not finite, or keys did not arrive in the bound cache.
    """
    length = min(prompt_length, max_positions)
    # Some engines fix the capacities of their caches: the smallest that holds the prompt and one more token will do.
    fixed = tuple(getattr(executor, "cache_capacities", ()))
    capacity = next((size for size in fixed if size > length), fixed[-1]) if fixed else length + 2
    sizes = {BATCH: 1, LENGTH: length, LOGITS: 1, CAPACITY: capacity}
    tensors: dict[str, torch.Tensor] = {}
    for spec in executor.io:
        if spec.aliases is None:
            shape = [sizes[size] if isinstance(size, str) else size for size in spec.shape]
            tensors[spec.name] = torch.zeros(shape, dtype=getattr(torch, spec.dtype), device=executor.device)
            executor.bind(spec.name, tensors[spec.name])
    executor.run()
    executor.synchronize()
    if max_positions > length:
        for name in ("input_ids", "hidden_states_input", "hidden_states_output"):
            if name in tensors:
                executor.bind(name, tensors[name][:, :1].contiguous())
        tensors["write_indices"].fill_(length)
        executor.run()
        executor.synchronize()
    _check_logits(executor, tensors)
    written = [bool(tensors["past_key_0"][:, :, slot].any()) for slot in range(capacity)]
    if written != [slot < min(length + 1, max_positions) for slot in range(capacity)]:
        raise _copied(executor)


def paged_trial_run(executor: Executor, max_positions: int) -> None:
    """Run a prompt of two tokens and, where there is room, one decode step, over a pool of three blocks.

    Raises
    ------
    BuildError
        When logits are not finite, or keys did not arrive in the bound pool.
    """
    length = min(2, max_positions)
    sizes = {TOKENS: length, ROWS: 1, STARTS: 2, ROW_BLOCKS: 1, BLOCKS: 3, LOGITS: 1}
    tensors: dict[str, torch.Tensor] = {}
    for spec in executor.io:
        if spec.aliases is None:
            shape = [sizes[size] if isinstance(size, str) else size for size in spec.shape]
            tensors[spec.name] = torch.zeros(shape, dtype=getattr(torch, spec.dtype), device=executor.device)
            executor.bind(spec.name, tensors[spec.name])
    tensors["block_tables"].fill_(2)
    steps = [(0, length)] if max_positions == length else [(0, length), (length, 1)]
    for past, count in steps:
        for name, tensor in tensors.items():
            if tensor.ndim and executor_dimension(executor, name) == TOKENS:
                executor.bind(name, tensor[:count].contiguous())
        positions = torch.arange(past, past + count, dtype=torch.int32, device=executor.device)
        executor.bind("position_ids", positions)
        tensors["query_starts"][1] = count
        tensors["kv_lengths"].fill_(past + count)
        executor.run()
        executor.synchronize()
    _check_logits(executor, tensors)
    filled = steps[-1][0] + steps[-1][1]
    slots = tensors["kv_cache_0"].float().abs().sum(dim=(1, 2, 4)) > 0  # (P, bs)
    if slots.sum().item() != filled or not bool(slots[2, :filled].all()):
        raise _copied(executor)


def executor_dimension(executor: Executor, name: str) -> int | str:
    """Return the first dimension of an executor's tensor: a size, or the name of an open one."""
    return next(spec.shape[0] for spec in executor.io if spec.name == name)


def _check_logits(executor: Executor, tensors: dict[str, torch.Tensor]) -> None:
    logits = tensors.get("logits")
    if logits is not None and not bool(torch.isfinite(logits).all()):
        raise BuildError(
            "The engine gives logits that are not finite.",
            where=executor.backend,
            remedy="The weights overflow the type of the computation: build with compute_dtype float32 or bfloat16.",
        )


def _copied(executor: Executor) -> BuildError:
    return BuildError(
        "The engine does not update its cache in place.",
        where=executor.backend,
        remedy="This version of the backend's runtime is not supported: install one within the stated bounds.",
    )
