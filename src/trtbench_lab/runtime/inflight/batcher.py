"""The thread that runs the batch: takes in requests, keeps the runner's queue filled, hands tokens on."""

from __future__ import annotations

import asyncio
import atexit
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...errors import EngineError, RequestError, TrtbenchError
from ...specs import SamplingConfig
from ..limits import EngineLimits, prompts_from_request
from ..request import GenerationRequest, settle
from .handle import RequestHandle, now_ns
from .scheduler import PlannedStep, Scheduler, StepCounts
from .sequence import FINISHED
from .sequence import Sequence as Request
from .stepper import RunnerLostError, StepRunner, StepTicket

_OPEN: weakref.WeakSet[InflightBatcher] = weakref.WeakSet()


@dataclass(frozen=True)
class StepRecord:
    """One step of a timeline.

    Attributes
    ----------
    submitted_ns, known_ns
        Handed to the runner; its tokens were on the host.
    planning_ns
        Time that planning it took.
    counts
        What it held.
    """

    submitted_ns: int
    known_ns: int
    planning_ns: int
    counts: StepCounts


class InflightBatcher:
    """Runs requests in one batch that they join and leave at token boundaries; all methods may be called by any thread.

    Parameters
    ----------
    runner
        Runs the steps.
    engine_limits
        What a request may ask for; ``max_batch_size`` does not limit how many may be sent, the rest wait in line.
    reuse
        Whether cached blocks of equal beginnings are used again.
    record
        Keep a `StepRecord` a step in `timeline`.
    """

    def __init__(
        self, runner: StepRunner, engine_limits: EngineLimits, *, reuse: bool = True, record: bool = False
    ) -> None:
        self.runner, self.engine_limits = runner, engine_limits
        self.timeline: list[StepRecord] = []
        self.record = record
        self.scheduler = Scheduler(
            runner.limits,
            max_seq_len=engine_limits.max_seq_len,
            reuse=reuse,
            queue_depth=runner.queue_depth,
            pinned=runner.device.type == "cuda",
        )
        self._inbox: deque[Request] = deque()
        self._cancelled: deque[Request] = deque()
        self._handles: dict[int, RequestHandle] = {}
        self._changed = threading.Condition()
        self._next_number = 0
        self._closing = False
        self._broken: Exception | None = None
        # torch keeps its number of threads a thread; the batcher's gets that of whoever made it.
        self._num_threads = torch.get_num_threads()
        self._thread: threading.Thread | None = None
        _OPEN.add(self)

    # ---- any thread -----------------------------------------------------------------------------------------------

    def submit(
        self,
        prompt: Any,
        sampling_config: SamplingConfig | None = None,
        *,
        streaming: bool = False,
        **keywords: Any,
    ) -> RequestHandle:
        """Send one request.

        Parameters
        ----------
        prompt
            Token ids: a list or a 1-D integer tensor.
        sampling_config
            Settings; None: the defaults of `SamplingConfig` (greedy).
        streaming
            Hand tokens on as they come, rather than at the end.
        keywords
            As for `ModelRunner.generate`: any field of `SamplingConfig`, ``stop_words``, ``truncation`` …

        Raises
        ------
        RequestError
            For a request that is wrong or could never run; no other request notices.
        """
        sent_ns = now_ns()
        ids, request = self._checked(prompt, sampling_config, keywords)
        return self._enqueued(ids, request, sent_ns, streaming=streaming)

    def submit_all(self, requests: Iterable[tuple[Any, SamplingConfig | None, dict[str, Any]]]) -> list[RequestHandle]:
        """Send several requests (prompt, sampling, keywords); when one is wrong, none is sent."""
        sent_ns = now_ns()
        checked = [self._checked(*request) for request in requests]
        return [self._enqueued(ids, request, sent_ns, streaming=False) for ids, request in checked]

    def _checked(
        self, prompt: Any, sampling_config: SamplingConfig | None, keywords: dict[str, Any]
    ) -> tuple[list[int], GenerationRequest]:
        (ids,) = prompts_from_request([prompt], self.engine_limits.vocab_size)
        request = settle(sampling_config, keywords, num_prompts=1, vocab_size=self.engine_limits.vocab_size)
        _refuse_unsupported(request)
        (ids,) = self.engine_limits.fitted([ids], request.truncation, request.config.max_new_tokens)
        self.scheduler.check(len(ids), request.config.max_new_tokens)
        return ids, request

    def _enqueued(self, ids: list[int], request: GenerationRequest, sent_ns: int, *, streaming: bool) -> RequestHandle:
        with self._changed:
            self._refuse_closed()
            sequence = Request(self._next_number, np.array(ids, dtype=np.int32), request, streams=streaming)
            handle = RequestHandle(self, sequence, sent_ns, streaming=streaming)
            self._next_number += 1
            self._handles[sequence.number] = handle
            self._inbox.append(sequence)
            self._start()
            self._changed.notify_all()
        return handle

    def cancel(self, handle: RequestHandle) -> None:
        """End a request at the next token boundary."""
        with self._changed:
            if handle.request_id in self._handles:
                self._cancelled.append(handle._sequence)
                self._changed.notify_all()

    @property
    def num_unfinished(self) -> int:
        """Requests that wait or run."""
        return len(self._handles)

    def memory(self) -> dict[str, int]:
        """Bytes held by the engine and the cache."""
        return self.runner.memory()

    def close(self) -> None:
        """Cancel what runs, end the thread, free the engine."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self.runner.close()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="inflight-batcher", daemon=True)
            self._thread.start()

    def _refuse_closed(self) -> None:
        if self._closing:
            raise closed_error()
        if self._broken is not None:
            raise EngineError(
                "The batcher has stopped after an error.",
                remedy="Load the engine again; the details tell what happened.",
                details=f"{type(self._broken).__name__}: {self._broken}",
            )

    # ---- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        queued: deque[tuple[PlannedStep, StepTicket, int, int]] = deque()
        try:
            torch.set_num_threads(self._num_threads)
            if self.runner.device.index is not None:
                torch.cuda.set_device(self.runner.device)
            while self._take_in(wait=not queued):
                before_ns = now_ns()
                planned = self.scheduler.plan()
                if planned is not None:
                    self._submit(planned, before_ns, queued)
                if queued and (planned is None or len(queued) >= self.runner.queue_depth):
                    self._read_oldest(queued)
                elif planned is None and not queued:
                    self._refuse_standstill()
        except Exception as error:  # whatever it is: whoever waits must hear of it
            self._broken = error
        finally:
            self._end_all()

    def _take_in(self, *, wait: bool) -> bool:
        """Take in new and cancelled requests; wait for some when there is nothing to do. False: close."""
        with self._changed:
            if wait:
                self._changed.wait_for(
                    lambda: self._closing or self._inbox or self._cancelled or self.scheduler.has_work
                )
            new, self._inbox = self._inbox, deque()
            cancelled, self._cancelled = self._cancelled, deque()
            if self._closing:
                self._inbox = new
                return False
        for sequence in new:
            self.scheduler.add(sequence)
        self._hand_on(sequence for sequence in cancelled if self.scheduler.cancel(sequence))
        return True

    def _submit(
        self, planned: PlannedStep, before_ns: int, queued: deque[tuple[PlannedStep, StepTicket, int, int]]
    ) -> None:
        submitted_ns = now_ns()
        try:
            ticket = self.runner.submit(planned.plan)
        except RunnerLostError:
            raise
        except Exception as error:  # one step's rows end with it; the batch goes on
            self._hand_on(self.scheduler.abandon(planned, _step_error(error)))
            return
        queued.append((planned, ticket, submitted_ns, submitted_ns - before_ns))

    def _read_oldest(self, queued: deque[tuple[PlannedStep, StepTicket, int, int]]) -> None:
        planned, ticket, submitted_ns, planning_ns = queued.popleft()
        try:
            tokens = ticket.tokens()
            log_probs = ticket.log_probs()
        except RunnerLostError:
            raise
        except Exception as error:
            # What was queued behind it read what it should have written.
            steps = [planned, *(later for later, *_ in queued)]
            queued.clear()
            for step in steps:
                self._hand_on(self.scheduler.abandon(step, _step_error(error)))
            return
        known_ns = now_ns()
        touched = self.scheduler.commit(planned, tokens, known_ns, log_probs)
        if self.record:
            self.timeline.append(StepRecord(submitted_ns, known_ns, planning_ns, planned.counts))
        self._hand_on(touched)

    def _refuse_standstill(self) -> None:
        if self.scheduler.has_work:
            raise EngineError("No waiting request can enter an empty batch.", where="scheduler")

    def _hand_on(self, sequences: Iterable[Request]) -> None:
        wakes: dict[asyncio.AbstractEventLoop, list[asyncio.Event]] = {}
        news: list[tuple[Request, list[int]]] = []
        for sequence in sequences:
            handle = self._handles.get(sequence.number)
            if handle is None:
                continue
            news.append((sequence, self._new_tokens(sequence, len(handle._tokens))))
            for loop, event in handle._hand_on(news[-1][1]):
                wakes.setdefault(loop, []).append(event)
            if sequence.state == FINISHED:
                with self._changed:
                    del self._handles[sequence.number]
        for loop, events in wakes.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_set_all, events)
        if news:
            self._handed_on(news)

    def _handed_on(self, news: list[tuple[Request, list[int]]]) -> None:
        """Learn what was handed on: requests with their new tokens."""

    def _new_tokens(self, sequence: Request, shown: int) -> list[int]:
        if sequence.slot < 0:
            return sequence.generated[shown:]
        rows = self.scheduler.rows
        tokens: list[int] = rows.generated[sequence.slot, shown : rows.known[sequence.slot]].tolist()
        return tokens

    def _end_all(self) -> None:
        with self._changed:
            for sequence in self._inbox:
                self.scheduler.waiting.append(sequence)
            self._inbox.clear()
        ended = []
        for sequence in self.scheduler.sequences():
            if self._broken is None:
                self.scheduler.cancel(sequence)
            else:
                self.scheduler.fail(sequence, self._broken)
            ended.append(sequence)
        self._hand_on(ended)


def closed_error() -> RequestError:
    """The error of a request that comes after `close`."""
    return RequestError("The batcher is closed.", remedy="Load the engine again.")


def _step_error(error: Exception) -> TrtbenchError:
    if isinstance(error, TrtbenchError):
        return error
    return EngineError(
        "A step of the running batch failed; the requests that were in it have ended.",
        remedy="Send them again; if it happens again, look at the details.",
        details=f"{type(error).__name__}: {error}",
    )


def _set_all(events: Sequence[asyncio.Event]) -> None:
    for event in events:
        event.set()


def _refuse_unsupported(request: GenerationRequest) -> None:
    config = request.config
    if config.num_beams > 1:
        raise RequestError(
            "Beam search does not run in a running batch.",
            where="num_beams",
            remedy="Use ModelRunner (trtbench run without --prompts) for beams, or num_beams=1.",
        )
    if config.output_logits or request.output_context_logits:
        raise RequestError(
            "A running batch returns no logits.",
            where="output_logits",
            remedy="Use ModelRunner (trtbench run without --prompts) for logits, or output_log_probs=True here.",
        )


@atexit.register
def _close_all() -> None:
    # A thread that is inside CUDA while the interpreter goes down can take the process with it.
    for batcher in list(_OPEN):
        batcher.close()
