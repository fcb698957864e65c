"""The pool of cache blocks: who holds which block, and which full blocks of earlier sequences may be used again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from ...errors import EngineError

SINK = 0
"""The block that padding is written to; no sequence gets it."""


def block_digest(parent: bytes, tokens: np.ndarray) -> bytes:
    """Name a full block by its tokens and everything before them.

    A cryptographic digest: two texts that met in one name would read each other's cache.
    """
    return hashlib.blake2b(np.ascontiguousarray(tokens, dtype=np.int32).tobytes(), key=parent, digest_size=16).digest()


class BlockManager:
    """Counts who uses each block; only full blocks are shared, and a shared block is never written again.

    A block is in use (held by one or more sequences), or cached (held by none, its content named by a digest and taken
    up again when a prompt begins with it), or free. Cached blocks are given out, least recently used first, when no
    block is free.

    Parameters
    ----------
    num_blocks
        Blocks of the pool, the sink included.
    tokens_per_block
        Tokens a block holds.
    reuse
        Whether full blocks are kept for prompts that begin alike.
    """

    def __init__(self, num_blocks: int, tokens_per_block: int, *, reuse: bool = True) -> None:
        if num_blocks < 2:
            raise EngineError(
                f"A pool of {num_blocks} block(s) holds no sequence: block 0 is kept for padding.",
                where="num_blocks",
                remedy="Give the cache more memory.",
            )
        self.num_blocks, self.tokens_per_block, self.reuse = num_blocks, tokens_per_block, reuse
        self.reused_blocks = 0
        self._holders = [0] * num_blocks
        self._free = list(range(num_blocks - 1, SINK, -1))  # taken from the end: low numbers first
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._block_of: dict[bytes, int] = {}
        self._digest_of: dict[int, bytes] = {}

    @property
    def available(self) -> int:
        """Blocks that can be given out now, cached ones included."""
        return len(self._free) + len(self._cached)

    @property
    def in_use(self) -> int:
        """Blocks that sequences hold."""
        return self.num_blocks - 1 - self.available

    @property
    def usable(self) -> int:
        """Blocks that sequences can hold at all."""
        return self.num_blocks - 1

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold `tokens` tokens."""
        return -(-tokens // self.tokens_per_block)

    def take(self, count: int) -> list[int]:
        """Give out `count` blocks; the caller has looked at `available`."""
        if count > self.available:
            raise EngineError(f"{count} blocks were asked for and {self.available} are left.", where="block manager")
        blocks = []
        for _ in range(count):
            if self._free:
                block = self._free.pop()
            else:
                block, _ = self._cached.popitem(last=False)
                self._forget(block)
            self._holders[block] = 1
            blocks.append(block)
        return blocks

    def take_known(self, digests: Sequence[bytes]) -> list[int]:
        """Hold the cached or used blocks of the longest known beginning of `digests`, and return them in order."""
        blocks: list[int] = []
        for digest in digests if self.reuse else ():
            block = self._block_of.get(digest)
            if block is None:
                break
            if self._holders[block] == 0:
                del self._cached[block]
            self._holders[block] += 1
            blocks.append(block)
        self.reused_blocks += len(blocks)
        return blocks

    def count_known(self, digests: Sequence[bytes]) -> tuple[int, int]:
        """How many blocks `take_known` would give, and how many of them count as available now."""
        known = idle = 0
        for digest in digests if self.reuse else ():
            block = self._block_of.get(digest)
            if block is None:
                break
            known += 1
            idle += self._holders[block] == 0
        return known, idle

    def name(self, block: int, digest: bytes) -> None:
        """Let a full block be found by `digest`; nothing happens where another block has that content already."""
        if self.reuse and digest not in self._block_of and block not in self._digest_of:
            self._block_of[digest] = block
            self._digest_of[block] = digest

    def give_back(self, blocks: Sequence[int]) -> None:
        """Let go of a sequence's blocks, in their order in the sequence."""
        # From the end: a sequence's beginning is the likeliest to come again, so it is evicted last.
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block] == 0:
                if block in self._digest_of:
                    self._cached[block] = None
                else:
                    self._free.append(block)

    def forget_all(self) -> None:
        """Let no block be found any more: their content is in doubt, after a step that failed."""
        self._free.extend(self._cached)
        self._cached.clear()
        self._block_of.clear()
        self._digest_of.clear()

    def _forget(self, block: int) -> None:
        del self._block_of[self._digest_of.pop(block)]

    def check(self, held: Sequence[Sequence[int]]) -> None:
        """Raise when the counts are not what `held`, the blocks of every running sequence, makes them."""
        counts = [0] * self.num_blocks
        for blocks in held:
            if len(set(blocks)) != len(blocks):
                raise EngineError("A sequence holds a block twice.", where="block manager")
            for block in blocks:
                counts[block] += 1
        idle = [*self._free, *self._cached]
        consistent = (
            counts == self._holders
            and counts[SINK] == 0
            and sorted(idle) == [block for block in range(1, self.num_blocks) if counts[block] == 0]
            and all(block in self._digest_of for block in self._cached)
            and not any(block in self._digest_of for block in self._free)
            and {block: digest for digest, block in self._block_of.items()} == self._digest_of
        )
        if not consistent:
            raise EngineError("The counts of the cache's blocks are wrong.", where="block manager")
