"""How one product of a step is computed: which kernel and with which tiles; the defaults, and the candidates to time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .lowered import LinearWeights

LIBRARY, MATVEC, SKINNY = "library", "matvec", "skinny"
MATVEC_TOKENS = 8
"""Most tokens that the matrix-vector kernel takes: beyond, the matrix units do the same work in fewer instructions."""
SKINNY_TOKENS = 64


@dataclass(frozen=True)
class Choice:
    """A kernel and its tiles; the tiles mean nothing to the library."""

    kernel: str
    block_n: int = 0
    block_k: int = 0
    warps: int = 4
    stages: int = 1

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Choice:
        return cls(**values)


def stored_width(weights: LinearWeights) -> int:
    """Elements of a stored weight row."""
    return weights.in_features // 2 if weights.bits == 4 else weights.in_features


def default_choice(weights: LinearWeights, tokens: int) -> Choice:
    """Return a choice that is good without being measured."""
    if tokens > SKINNY_TOKENS or weights.weight.element_size() == 4:
        return Choice(LIBRARY)
    if tokens == 1:
        width = stored_width(weights)
        block_k = min(2048 if weights.weight.element_size() == 1 else 1024, _power_below(width))
        return Choice(MATVEC, 8, max(block_k, 16), 4)
    if tokens <= 16:
        block_k = weights.group_size or min(128, _power_below(weights.in_features))
        return Choice(SKINNY, 32, max(block_k, 16), 4, 4)
    return Choice(LIBRARY) if weights.bits == 16 else Choice(SKINNY, 64, weights.group_size or 64, 4, 3)


def candidates(weights: LinearWeights, tokens: int, level: int) -> list[Choice]:
    """Return what is worth timing for a product of `tokens` rows at optimization level 0-5; the default comes first."""
    found = [default_choice(weights, tokens)]
    if level == 0 or tokens > 256:
        return found
    found.append(Choice(LIBRARY))
    width, one_byte = stored_width(weights), weights.weight.element_size() == 1
    if tokens <= (1 if level < 2 else 4) and weights.weight.element_size() < 4:
        widths = [size for size in ((2048, 4096, 1024) if one_byte else (1024, 2048, 512, 4096)) if size <= 2 * width]
        rows = (4, 8, 16, 2) if not weights.gated else (4, 8, 2)
        keep = {1: 1, 2: 2}.get(level, 4)
        for block_k in widths[:keep]:
            if tokens > 1 and block_k < width:
                continue
            for block_n in rows[: keep + 1]:
                for warps in (4, 8) if level < 4 else (2, 4, 8):
                    per_thread = block_n * block_k * weights.weight.element_size() / (warps * 32)
                    if 8 <= per_thread <= 256:
                        found.append(Choice(MATVEC, block_n, block_k, warps))
    if 1 < tokens <= SKINNY_TOKENS and weights.weight.element_size() < 4:
        deep = (64, 128, 256) if weights.group_size is None else (weights.group_size,)
        shapes = [(block_n, block_k) for block_n in (16, 32, 64) for block_k in deep if block_k <= weights.in_features]
        for block_n, block_k in shapes if level > 2 else shapes[1::2]:
            for stages in (3, 5) if level < 4 else (2, 3, 4, 6):
                if stages * (block_n * (2 if weights.gated else 1) + _rows(tokens)) * block_k * 2 <= 200_000:
                    found.append(Choice(SKINNY, block_n, block_k, 4, stages))
    unique = list(dict.fromkeys(found))
    return unique


def _rows(tokens: int) -> int:
    return max(16, _power_below(2 * tokens - 1))


def _power_below(size: int) -> int:
    """The largest power of two that is at most `size`."""
    return 1 << (size.bit_length() - 1)
