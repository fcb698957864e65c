"""A runner whose clock is written by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from trtbench_lab.runtime.timing import GenerationTiming


@dataclass(frozen=True)
class Limits:
    vocab_size: int = 100
    max_batch_size: int | None = 8
    max_input_len: int | None = 64
    max_seq_len: int | None = 96
    max_beam_width: int | None = 1


class FakeRunner:
    """Answers with timestamps that `gaps_ms` gives: gaps_ms(call, output_length) → milliseconds before each token."""

    backend = "fake"

    def __init__(self, gaps_ms: Callable[[int, int], Sequence[float]] | None = None, limits: Limits | None = None):
        self.limits = limits or Limits()
        self.calls: list[dict[str, Any]] = []
        self._gaps_ms = gaps_ms or (lambda call, length: [10.0] + [2.0] * (length - 1))
        self._numbers: Iterator[int] = count()

    def generate(self, batch_input_ids: Sequence[Sequence[int]], **options: Any) -> dict[str, Any]:
        self.calls.append({"prompts": batch_input_ids, **options})
        call = next(self._numbers)
        started_ns = 1_000_000_000_000 * (call + 1)  # some arbitrary point of the clock
        now_ns, token_ns = started_ns, []
        for gap_ms in self._gaps_ms(call, options["max_new_tokens"]):
            now_ns += round(gap_ms * 1e6)
            token_ns.append(now_ns)
        rows = (len(token_ns),) * len(batch_input_ids)
        return {"output_ids": None, "timing": GenerationTiming(started_ns, tuple(token_ns), rows)}
