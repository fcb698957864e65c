"""A running batch as every rank's program sees it: rank 0's runs, the others' hear what becomes of each request."""

from __future__ import annotations

import asyncio
import functools
import re
import threading
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import EngineError, TrtbenchError
from ...specs import SamplingConfig
from ..limits import EngineLimits
from ..request import GenerationRequest
from .batcher import InflightBatcher, closed_error
from .handle import RequestHandle
from .sequence import FINISHED, Sequence
from .stepper import StepRunner

Call = tuple[Any, ...]
"""A call of `submit` or `submit_all`, by its content: all ranks make the same ones, not always in the same order."""


@dataclass(frozen=True)
class Sent:
    """A request that rank 0 has taken in."""

    number: int
    prompt: np.ndarray
    request: GenerationRequest
    streaming: bool
    sent_ns: int


@dataclass(frozen=True)
class Ended:
    """How a request ended."""

    finish_reason: str | None
    error: Exception | None
    token_ns: list[int]
    log_probs: list[float]
    preemptions: int
    reused_tokens: int


News = list[tuple[int, list[int], Ended | None]]
"""New tokens by number of request, and its end."""


class TellingBatcher(InflightBatcher):
    """Rank 0's batcher, whose requests the others' programs send too.

    Parameters
    ----------
    runner, engine_limits, reuse, record
        As for `InflightBatcher`.
    tell
        Sends a message to the others: ``("inflight_sent", key, …)`` and so on.
    key
        Which of their batchers is meant.
    """

    def __init__(
        self, runner: StepRunner, engine_limits: EngineLimits, tell: Callable[[Any], None], key: int, **options: Any
    ) -> None:
        super().__init__(runner, engine_limits, **options)
        self._tell, self._key = tell, key

    def submit(
        self, prompt: Any, sampling_config: SamplingConfig | None = None, *, streaming: bool = False, **keywords: Any
    ) -> RequestHandle:
        """See `InflightBatcher.submit`."""
        call = call_of([(prompt, sampling_config, keywords)], streaming)
        submit = super().submit
        (handle,) = self._answered(call, lambda: [submit(prompt, sampling_config, streaming=streaming, **keywords)])
        return handle

    def submit_all(self, requests: Iterable[tuple[Any, SamplingConfig | None, dict[str, Any]]]) -> list[RequestHandle]:
        """See `InflightBatcher.submit_all`."""
        listed, submit_all = list(requests), super().submit_all
        return self._answered(call_of(listed, False), lambda: submit_all(listed))

    def _answered(self, call: Call, send: Callable[[], list[RequestHandle]]) -> list[RequestHandle]:
        try:
            handles = send()
        except Exception as error:  # whatever it is: the others wait for an answer
            self._tell(("inflight_answered", self._key, call, _portable(error)))
            raise
        sent = [
            Sent(
                handle.request_id,
                handle._sequence.prompt,
                handle._sequence.request,
                handle.streaming,
                handle._sent_ns,
            )
            for handle in handles
        ]
        self._tell(("inflight_answered", self._key, call, sent))
        return handles

    def _handed_on(self, news: list[tuple[Sequence, list[int]]]) -> None:
        self._tell(
            ("inflight_news", self._key, [(sequence.number, tokens, _end_of(sequence)) for sequence, tokens in news])
        )


class FollowedBatcher:
    """Another rank's batcher: `submit` and `submit_all` give handles that hear what rank 0's hear.

    Parameters
    ----------
    runner, engine_limits
        This rank's.
    follow
        Does what rank 0 orders until the function it is given returns something.
    may_follow
        Whether rank 0 can still be followed.
    """

    def __init__(
        self,
        runner: StepRunner,
        engine_limits: EngineLimits,
        follow: Callable[[Callable[[], Any]], Any],
        may_follow: Callable[[], bool] = lambda: True,
    ) -> None:
        self.runner, self.engine_limits = runner, engine_limits
        self.closed = False
        self._closed_here = False
        self._follow, self._may_follow = follow, may_follow
        self._lock = threading.Lock()
        self._answers: dict[Call, deque[Exception | list[FollowedHandle]]] = defaultdict(deque)
        self._handles: dict[int, FollowedHandle] = {}
        self._early: dict[int, list[tuple[list[int], Ended | None]]] = defaultdict(list)

    # ---- what the program calls -----------------------------------------------------------------------------------

    def submit(
        self, prompt: Any, sampling_config: SamplingConfig | None = None, *, streaming: bool = False, **keywords: Any
    ) -> RequestHandle:
        """Take part in rank 0's `submit` of the same request."""
        return self._answer(call_of([(prompt, sampling_config, keywords)], streaming))[0]

    def submit_all(self, requests: Iterable[tuple[Any, SamplingConfig | None, dict[str, Any]]]) -> list[RequestHandle]:
        """Take part in rank 0's `submit_all` of the same requests."""
        return list(self._answer(call_of(list(requests), False)))

    def cancel(self, handle: RequestHandle) -> None:
        """Nothing: rank 0's cancel ends the request for all."""

    @property
    def num_unfinished(self) -> int:
        """Requests that wait or run, as far as was heard."""
        return len(self._handles)

    def memory(self) -> dict[str, int]:
        """Bytes held by this rank."""
        return self.runner.memory()

    def close(self) -> None:
        """Follow rank 0 until it has closed the batch."""
        self._closed_here = True
        if not self.closed and self._may_follow():
            self._follow(lambda: self.closed or None)

    def _answer(self, call: Call) -> list[FollowedHandle]:
        if self._closed_here:
            raise closed_error()
        answer = self._follow(lambda: self._claimed(call))
        if isinstance(answer, TrtbenchError):
            answer.led = True
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    def _claimed(self, call: Call) -> Exception | list[FollowedHandle] | None:
        with self._lock:
            if waiting := self._answers.get(call):
                return waiting.popleft()
            if self.closed:
                return EngineError(
                    "Rank 0 has closed the batch and never sent this request.",
                    where="ranks",
                    remedy="Make the same calls on every rank.",
                )
        return None

    # ---- what rank 0 tells ----------------------------------------------------------------------------------------

    def hear_answer(self, call: Call, answer: Exception | list[Sent]) -> None:
        """Learn what came of a call."""
        with self._lock:
            if isinstance(answer, Exception):
                self._answers[call].append(answer)
                return
            handles = []
            for sent in answer:
                sequence = Sequence(sent.number, sent.prompt, sent.request, streams=sent.streaming)
                handle = FollowedHandle(self, sequence, sent.sent_ns, streaming=sent.streaming)
                self._handles[sent.number] = handle
                handles.append(handle)
            self._answers[call].append(handles)
        for sent in answer:
            self.hear_news([(sent.number, *early) for early in self._early.pop(sent.number, [])])

    def hear_news(self, news: News) -> None:
        """Learn of new tokens and ends."""
        for number, tokens, end in news:
            handle = self._handles.get(number)
            if handle is None:  # it was quicker than the answer to the call that sent it
                self._early[number].append((tokens, end))
                continue
            handle.hear(tokens, end)
            if end is not None:
                del self._handles[number]

    def hear_close(self) -> None:
        """Learn that rank 0 has closed."""
        self.closed = True


class FollowedHandle(RequestHandle):
    """See `RequestHandle`: whoever waits follows rank 0 meanwhile. Time limits and cancels are rank 0's alone."""

    _batcher: Any

    def __init__(self, batcher: FollowedBatcher, sequence: Sequence, sent_ns: int, *, streaming: bool) -> None:
        super().__init__(batcher, sequence, sent_ns, streaming=streaming)  # type: ignore[arg-type]

    def hear(self, tokens: list[int], end: Ended | None) -> None:
        """Take in what rank 0's handle was given."""
        sequence = self._sequence
        if end is not None:
            sequence.finish_reason, sequence.error, sequence.state = end.finish_reason, end.error, FINISHED
            sequence.token_ns, sequence.log_probs = end.token_ns, end.log_probs
            sequence.preemptions, sequence.reused_tokens = end.preemptions, end.reused_tokens
            if isinstance(end.error, TrtbenchError):
                end.error.led = True
        for loop, event in self._hand_on(tokens):
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    def result(self, timeout_s: float | None = None) -> list[int]:
        """See `RequestHandle.result`."""
        self._followed(lambda: self._finished)
        return self._ended()

    def __iter__(self) -> Iterator[list[int]]:
        shown = 0
        while True:
            self._followed(functools.partial(self._has_more, shown))
            new = self._tokens[shown:]
            shown += len(new)
            if not new:
                self._ended()
                return
            yield new

    async def __aiter__(self) -> AsyncIterator[list[int]]:
        for new in self:
            yield new
            await asyncio.sleep(0)

    def _has_more(self, shown: int) -> bool:
        return self._finished or len(self._tokens) > shown

    def _followed(self, there: Callable[[], bool]) -> None:
        def found() -> bool | None:
            if not there() and self._batcher.closed:
                raise EngineError(
                    "Rank 0 has closed the batch before this request ended.",
                    where="ranks",
                    remedy="Make the same calls on every rank.",
                )
            return there() or None

        self._batcher._follow(found)


def call_of(requests: list[tuple[Any, SamplingConfig | None, dict[str, Any]]], streaming: bool) -> Call:
    """Return what tells a call from others: its prompts, their sampling, and whether it streams."""
    return (streaming, *((_prompt_of(prompt), _told_of(config), _told_of(words)) for prompt, config, words in requests))


def _prompt_of(prompt: Any) -> Any:
    plain = prompt.tolist() if hasattr(prompt, "tolist") else prompt
    # Anything else may be unhashable, or equal to nothing but itself: whether it is a prompt at all is rank 0's to say.
    return tuple(plain) if isinstance(plain, list) and set(map(type, plain)) <= {int} else _told_of(plain)


def _told_of(value: Any) -> str:
    """Return what a value looks like on every rank: without the addresses of objects."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _portable(error: Exception) -> Exception:
    return error if isinstance(error, TrtbenchError) else RuntimeError(f"rank 0: {type(error).__name__}: {error}")


def _end_of(sequence: Sequence) -> Ended | None:
    if sequence.state != FINISHED:
        return None
    error = None if sequence.error is None else _portable(sequence.error)
    return Ended(
        sequence.finish_reason,
        error,
        [int(moment) for moment in sequence.token_ns],
        list(sequence.log_probs),
        sequence.preemptions,
        sequence.reused_tokens,
    )
