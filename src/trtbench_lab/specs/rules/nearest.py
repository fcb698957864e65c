"""The nearest number that satisfies a rule."""

from __future__ import annotations

from collections.abc import Callable

_FARTHEST = 1 << 16  # a damaged config.json may speak of 10^9 heads; no rule is about numbers that large


def nearest(wanted: int, valid: Callable[[int], bool], highest: int) -> int | None:
    """Return the number in 1…`highest` that is valid and nearest to `wanted`, the smaller one of two; None if none."""
    highest = min(highest, _FARTHEST)
    start = max(1, min(wanted, highest))
    for distance in range(highest):
        for number in (start - distance, start + distance):
            if 1 <= number <= highest and valid(number):
                return number
    return None
