"""A request in the hands of whoever sent it: wait for it, read it as it comes (thread or coroutine), cancel it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import RequestError
from .sequence import FINISHED, Sequence

if TYPE_CHECKING:
    from .batcher import InflightBatcher


@dataclass(frozen=True)
class RequestTiming:
    """Timestamps of one request, in nanoseconds of `time.perf_counter_ns`.

    Attributes
    ----------
    sent_ns
        t0: the request was handed over, before it was checked.
    token_ns
        When each new token was known on the host.
    """

    sent_ns: int
    token_ns: tuple[int, ...]

    @property
    def ttft_ms(self) -> float | None:
        """Time to first token, waiting in line included; None without a token."""
        return (self.token_ns[0] - self.sent_ns) / 1e6 if self.token_ns else None

    @property
    def latency_ms(self) -> float | None:
        """Last token known − sent."""
        return (self.token_ns[-1] - self.sent_ns) / 1e6 if self.token_ns else None

    @property
    def tpot_ms(self) -> float | None:
        """(latency − TTFT) / (tokens − 1); None with fewer than two tokens."""
        if len(self.token_ns) < 2:
            return None
        return (self.token_ns[-1] - self.token_ns[0]) / 1e6 / (len(self.token_ns) - 1)

    @property
    def inter_token_ms(self) -> list[float]:
        """Gaps between consecutive tokens."""
        return [(b - a) / 1e6 for a, b in zip(self.token_ns, self.token_ns[1:], strict=False)]


class RequestHandle:
    """One request of an `InflightBatcher`.

    Iterating (``for`` or ``async for``) yields lists of new tokens: as they come where the request streams, else all at
    once at the end. An iteration that is left early does not cancel the request; `cancel` does.

    Attributes
    ----------
    prompt_token_ids
        The prompt as it is run.
    streaming
        Whether tokens are handed on as they come.
    """

    def __init__(self, batcher: InflightBatcher, sequence: Sequence, sent_ns: int, *, streaming: bool) -> None:
        self.prompt_token_ids = sequence.prompt.tolist()
        self.streaming = streaming
        self._batcher, self._sequence, self._sent_ns = batcher, sequence, sent_ns
        self._tokens: list[int] = []
        self._finished = False
        self._changed = threading.Condition()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._callbacks: list[Callable[[], object]] = []

    # ---- what is known --------------------------------------------------------------------------------------------

    @property
    def request_id(self) -> int:
        """Number of the request, in order of arrival."""
        return self._sequence.number

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about options that have no effect."""
        return self._sequence.request.notes

    @property
    def finished(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._finished

    @property
    def finish_reason(self) -> str | None:
        """``"end_id"``, ``"stop_words"``, ``"length"``, ``"cancelled"``, ``"error"``; None while it runs."""
        return self._sequence.finish_reason if self._finished else None

    @property
    def error(self) -> Exception | None:
        """What went wrong."""
        return self._sequence.error if self._finished else None

    @property
    def token_ids(self) -> list[int]:
        """New tokens so far (the end token included), as far as they were handed on."""
        return list(self._tokens)

    @property
    def log_probs(self) -> list[float]:
        """Raw log-probability of each new token, where it was asked for; complete at the end."""
        return list(self._sequence.log_probs) if self._finished else []

    @property
    def timing(self) -> RequestTiming:
        """Timestamps; the tokens' are complete at the end."""
        return RequestTiming(self._sent_ns, tuple(self._sequence.token_ns) if self._finished else ())

    @property
    def preemptions(self) -> int:
        """How often it was put off for want of cache."""
        return self._sequence.preemptions

    @property
    def reused_tokens(self) -> int:
        """Tokens whose keys and values were found in the cache."""
        return self._sequence.reused_tokens

    # ---- waiting and reading --------------------------------------------------------------------------------------

    def result(self, timeout_s: float | None = None) -> list[int]:
        """Wait for the end and return the new tokens; those made so far after a cancel.

        Raises
        ------
        TrtbenchError
            What went wrong with this request.
        RequestError
            When it has not ended after `timeout_s`; it goes on.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._finished, timeout_s):
                raise _still_running(timeout_s)
        return self._ended()

    async def aresult(self) -> list[int]:
        """Like `result`, for coroutines."""
        async for _ in self:
            pass
        return self._ended()

    def cancel(self) -> None:
        """Take the request out of the batch at the next token boundary; what it made so far stays readable."""
        self._batcher.cancel(self)

    def on_end(self, callback: Callable[[], object]) -> None:
        """Call `callback` once when the request has ended, from the batcher's thread; at once where it has already.

        It must be quick and must not raise: the whole batch waits for it.
        """
        with self._changed:
            if not self._finished:
                self._callbacks.append(callback)
                return
        callback()

    def __iter__(self) -> Iterator[list[int]]:
        shown = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda at=shown: self._finished or len(self._tokens) > at)  # type: ignore[misc]
                new, finished = self._tokens[shown:], self._finished
            shown += len(new)
            if new:
                yield new
            elif finished:
                self._ended()
                return

    async def __aiter__(self) -> AsyncIterator[list[int]]:
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        waiter = (loop, event)
        with self._changed:
            self._waiters.append(waiter)
        shown = 0
        try:
            while True:
                event.clear()
                with self._changed:
                    new, finished = self._tokens[shown:], self._finished
                shown += len(new)
                if new:
                    yield new
                elif finished:
                    self._ended()
                    return
                else:
                    await event.wait()
        finally:
            with self._changed:
                self._waiters.remove(waiter)

    def _ended(self) -> list[int]:
        if self._sequence.error is not None:
            raise self._sequence.error
        return list(self._tokens)

    # ---- the batcher's side ---------------------------------------------------------------------------------------

    def _hand_on(self, tokens: list[int]) -> list[tuple[asyncio.AbstractEventLoop, asyncio.Event]]:
        """Take in what is new; returns the coroutines to wake, which the batcher does for all requests at once."""
        with self._changed:
            self._tokens.extend(tokens)
            self._finished = self._sequence.state == FINISHED
            self._changed.notify_all()
            waiters = list(self._waiters)
            callbacks, self._callbacks = (self._callbacks, []) if self._finished else ([], self._callbacks)
        for callback in callbacks:
            callback()
        return waiters


def now_ns() -> int:
    """The clock of all timestamps here."""
    return time.perf_counter_ns()


def _still_running(timeout_s: float | None) -> RequestError:
    return RequestError(
        f"The request has not ended after {timeout_s:g} s.", remedy="Wait longer, or cancel it: it still runs."
    )
