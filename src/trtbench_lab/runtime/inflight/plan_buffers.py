"""Host memory of step plans: one block of int32 a plan, pinned where the device is a GPU, used again and again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .stepper import StepLimits


@dataclass(frozen=True)
class Layout:
    """Where each array begins in the block of int32, and how many it may hold; the same for all plans of a runner.

    A device copy of the same layout needs one transfer a step, and its addresses never change.

    Attributes
    ----------
    offsets, sizes
        By array name, in elements; every offset is a multiple of 32 (128 bytes).
    total
        Elements in all.
    """

    offsets: dict[str, int]
    sizes: dict[str, int]
    total: int

    @classmethod
    def from_limits(cls, limits: StepLimits) -> Layout:
        """Lay out the arrays of the largest step."""
        tokens, rows = limits.max_num_tokens, limits.max_batch_size
        sizes = {
            "input_ids": tokens,
            "token_slots": tokens,
            "position_ids": tokens,
            "token_rows": tokens,
            "query_starts": rows + 1,
            "kv_lengths": rows,
            "logit_indices": rows,
            "sample_slots": rows,
            "block_tables": rows * limits.max_blocks_per_row,
        }
        offsets, position = {}, 0
        for name, size in sizes.items():
            offsets[name] = position
            position += -(-size // 32) * 32
        return cls(offsets, sizes, position)


class PlanBuffers:
    """The arrays of one plan, at their full size; a plan uses the front of each.

    Attributes
    ----------
    block
        (layout.total,) int32 host tensor, pinned if asked.
    arrays
        NumPy views of it by name; ``block_tables`` is (rows, columns).
    busy
        True from planning until the step's tokens are known.
    """

    def __init__(self, limits: StepLimits, *, pinned: bool) -> None:
        self.layout = Layout.from_limits(limits)
        self.block = torch.zeros(self.layout.total, dtype=torch.int32, pin_memory=pinned)
        self.busy = False
        whole = self.block.numpy()
        self.arrays: dict[str, np.ndarray] = {}
        for name, offset in self.layout.offsets.items():
            array = whole[offset : offset + self.layout.sizes[name]]
            if name == "block_tables":
                array = array.reshape(limits.max_batch_size, limits.max_blocks_per_row)
            self.arrays[name] = array


class BufferRing:
    """As many `PlanBuffers` as steps can be queued, and one for the plan being made."""

    def __init__(self, limits: StepLimits, queue_depth: int, *, pinned: bool) -> None:
        self._free = [PlanBuffers(limits, pinned=pinned) for _ in range(queue_depth + 1)]

    def take(self) -> PlanBuffers:
        """Return buffers that no queued step reads."""
        buffers = self._free.pop()
        buffers.busy = True
        return buffers

    def give_back(self, buffers: PlanBuffers) -> None:
        """Let the buffers be used again; their step's tokens are known."""
        buffers.busy = False
        self._free.append(buffers)
