"""One clock for every generator that is timed: when a request was sent, and when each token was known on the host."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class GenerationTiming:
    """Timestamps of one `generate` call, in nanoseconds of one monotonic clock (`time.perf_counter_ns`).

    Attributes
    ----------
    started_ns
        t0: `generate` was entered, before the request was checked and any buffer was made.
    token_ns
        One entry a step: the device had finished and the step's tokens (one a row) were on the host.
    tokens_per_row
        Steps that each row took part in, its end token included; row r's tokens were known at
        ``token_ns[:tokens_per_row[r]]``. With beams: the steps of the search, for every row.
    """

    started_ns: int
    token_ns: tuple[int, ...]
    tokens_per_row: tuple[int, ...]

    @property
    def ttft_ms(self) -> float | None:
        """Time to first token: first token known − t0. None when no token was made."""
        return (self.token_ns[0] - self.started_ns) / 1e6 if self.token_ns else None

    @property
    def latency_ms(self) -> float | None:
        """End-to-end latency: last token known − t0."""
        return (self.token_ns[-1] - self.started_ns) / 1e6 if self.token_ns else None

    @property
    def generation_ms(self) -> float | None:
        """First to last token; None with fewer than two steps."""
        return (self.token_ns[-1] - self.token_ns[0]) / 1e6 if len(self.token_ns) > 1 else None

    @property
    def inter_token_ms(self) -> list[float]:
        """Gaps between consecutive steps; one entry fewer than there are steps."""
        return [(b - a) / 1e6 for a, b in zip(self.token_ns, self.token_ns[1:], strict=False)]

    @property
    def tpot_ms(self) -> float | None:
        """Time per output token after the first: (latency − TTFT) / (steps − 1); None with fewer than two steps."""
        generation_ms = self.generation_ms
        return None if generation_ms is None else generation_ms / (len(self.token_ns) - 1)

    @property
    def total_tokens(self) -> int:
        """Tokens made by all rows, end tokens included."""
        return sum(self.tokens_per_row)

    @property
    def tokens_per_second(self) -> float | None:
        """All rows' tokens over the end-to-end latency."""
        latency_ms = self.latency_ms
        return None if not latency_ms else self.total_tokens / (latency_ms / 1e3)


class TokenClock:
    """Records t0 and one timestamp a step.

    Parameters
    ----------
    synchronize
        Called before each timestamp, so that queued device work is inside the interval it belongs to. Generators that
        have copied the tokens to the host are synchronous already and need none.
    """

    def __init__(self, synchronize: Callable[[], None] | None = None) -> None:
        self._synchronize = synchronize
        self.started_ns = 0
        self.token_ns: list[int] = []

    def start(self) -> None:
        """Wait for earlier work of the device, then set t0."""
        if self._synchronize is not None:
            self._synchronize()
        self.token_ns = []
        self.started_ns = time.perf_counter_ns()

    def mark(self) -> None:
        """Record that one more step's tokens are known."""
        if self._synchronize is not None:
            self._synchronize()
        self.token_ns.append(time.perf_counter_ns())

    def timing(self, tokens_per_row: list[int]) -> GenerationTiming:
        """Return what was recorded."""
        return GenerationTiming(self.started_ns, tuple(self.token_ns), tuple(tokens_per_row))
