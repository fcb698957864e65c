"""The contiguous K/V cache of a session: a pair of tensors a layer, sized by the request, memory kept for the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..errors import RequestError

if TYPE_CHECKING:
    from ..backends.protocol import Executor, TensorSpec

# Attention that scans the whole capacity pays for every unused position, and a fine step costs nothing because the
# memory itself is kept between requests: 32 positions are at most 3 % of a 1,000-token sequence.
CAPACITY_STEP = 32


def round_up(tokens: int, step: int = CAPACITY_STEP) -> int:
    """Return the capacity for `tokens` positions."""
    return -(-tokens // step) * step


class KVCache:
    """Cache tensors of an executor, viewed over memory that only grows.

    Parameters
    ----------
    executor
        Its cache inputs are those that an output aliases.
    max_positions
        Positions that the engine takes at most; None: not limited.
    """

    def __init__(self, executor: Executor, max_positions: int | None = None) -> None:
        aliased = {spec.aliases for spec in executor.io if spec.aliases is not None}
        self.specs: list[TensorSpec] = [spec for spec in executor.io if spec.name in aliased]
        self.device = executor.device
        self._max_positions = max_positions
        # An engine may fix which capacities there are: TensorRT has a plan for each.
        self.capacities: tuple[int, ...] = tuple(getattr(executor, "cache_capacities", ()))
        self.rows = 0
        self.capacity = 0
        self.tensors: dict[str, torch.Tensor] = {}
        self._storage: dict[str, torch.Tensor] = {}

    def reserve(self, rows: int, tokens: int) -> None:
        """Make zeroed views of `rows` × (at least `tokens` positions), on the memory at hand when it is big enough.

        Zeroed because attention gives unused positions a weight of 0, and 0 × NaN left by earlier content is NaN.

        Raises
        ------
        RequestError
            When the engine's largest capacity is smaller.
        """
        self.rows, self.capacity = rows, self.capacity_for(tokens)
        for spec in self.specs:
            self.tensors[spec.name] = self._view(spec).zero_()

    def grow(self, tokens: int, filled: int) -> None:
        """Move the first `filled` positions of every row into caches of at least `tokens` positions.

        One cache at a time, so that only one stands twice.

        Raises
        ------
        RequestError
            When the engine's largest capacity is smaller.
        """
        self.capacity = self.capacity_for(tokens)
        for spec in self.specs:
            old = self.tensors[spec.name]
            # Rows lie further apart now, so the memory at hand cannot be used while it is read.
            self._storage[spec.name] = torch.zeros(0, dtype=old.dtype, device=self.device)
            self.tensors[spec.name] = self._view(spec)
            self.tensors[spec.name][:, :, :filled] = old[:, :, :filled]

    def capacity_for(self, tokens: int) -> int:
        """Return the capacity that `reserve` takes for so many positions.

        Raises
        ------
        RequestError
            When the engine's largest capacity is smaller.
        """
        if self.capacities:
            for capacity in self.capacities:
                if tokens <= capacity:
                    return capacity
            raise RequestError(
                f"{tokens} tokens a row do not fit into the engine's largest cache of {self.capacities[-1]}.",
                remedy="Ask for fewer tokens, or build with a larger max_seq_len.",
            )
        limit = self._max_positions
        return round_up(tokens) if limit is None else max(tokens, min(round_up(tokens), limit))

    def _view(self, spec: TensorSpec) -> torch.Tensor:
        """Return a view of this many rows and positions, over the cache's memory or new, zeroed one."""
        shape = (self.rows, int(spec.shape[1]), self.capacity, int(spec.shape[3]))  # (B, Hkv, S, D)
        elements = torch.Size(shape).numel()
        storage = self._storage.get(spec.name)
        if storage is None or storage.numel() < elements:
            storage = torch.zeros(elements, dtype=getattr(torch, spec.dtype), device=self.device)
            self._storage[spec.name] = storage
        return storage[:elements].view(shape)

    def fill_from(self, other: KVCache, copies: int, tokens: int) -> None:
        """Copy each row of `other` to `copies` consecutive rows here, the first `tokens` positions of it."""
        for name, target in self.tensors.items():
            source = other.tensors[name][:, :, :tokens]
            target[:, :, :tokens] = source.repeat_interleave(copies, dim=0)

    def take_rows(self, parents: Sequence[int], tokens: int) -> None:
        """Let row i continue row ``parents[i]``: copy the first `tokens` positions of the rows that change."""
        moved = [row for row, parent in enumerate(parents) if row != parent]
        if not moved:
            return
        # Rows that are read after they were overwritten are saved first; plain row copies take half of the time that
        # index_select and an indexed assignment take.
        overwritten = {parents[row] for row in moved} & set(moved)
        for tensor in self.tensors.values():
            filled = tensor[:, :, :tokens]
            saved = {row: filled[row].clone() for row in overwritten}
            for row in moved:
                parent = parents[row]
                filled[row] = saved[parent] if parent in saved else filled[parent]

    @property
    def allocated_bytes(self) -> int:
        """Memory held, used or not."""
        return sum(storage.numel() * storage.element_size() for storage in self._storage.values())

    def release(self) -> None:
        """Let go of the memory."""
        self.tensors.clear()
        self._storage.clear()
        self.rows = self.capacity = 0
