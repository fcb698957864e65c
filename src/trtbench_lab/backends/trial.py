"""A first run of a fresh engine: a short prompt, then one more token, so that no broken engine leaves its build."""

from __future__ import annotations

import torch

from ..errors import BuildError
from ..network.signature import BATCH, CAPACITY, LENGTH, LOGITS
from .protocol import Executor


def trial_run(executor: Executor, max_positions: int, *, prompt_length: int = 2) -> None:
    """Run a prompt and, where an engine of `max_positions` has room for it, one decode step.

    Raises
    ------
    BuildError
        When logits are not finite, or keys did not arrive in the bound cache.
    """
    length = min(prompt_length, max_positions)
    capacity = length + 2
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
    logits = tensors.get("logits")
    if logits is not None and not bool(torch.isfinite(logits).all()):
        raise BuildError(
            "The engine gives logits that are not finite.",
            where=executor.backend,
            remedy="The weights overflow the type of the computation: build with compute_dtype float32 or bfloat16.",
        )
    written = [bool(tensors["past_key_0"][:, :, slot].any()) for slot in range(capacity)]
    if written != [slot < min(length + 1, max_positions) for slot in range(capacity)]:
        raise BuildError(
            "The engine does not update its cache in place.",
            where=executor.backend,
            remedy="This version of the backend's runtime is not supported: install one within the stated bounds.",
        )
