"""Steps over several ranks: rank 0 plans and tells, the others run the same plan in the same order.

A plan is a few arrays of integers, told before rank 0 runs it. What becomes of requests (tokens, ends, cancels, being
put off) is known to rank 0 alone and shows in its next plan: it cannot make ranks part ways. Rank 0 chooses the tokens,
and the runner broadcasts them on the device, so plans may go ahead of tokens as on one rank.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from .plan_buffers import PlanBuffers
from .stepper import RunnerLostError, SamplingPlan, StepLimits, StepPlan, StepRunner, StepTicket

Told = tuple[tuple[int, ...], bytes]
"""A plan on its way: its numbers, and its arrays as they follow each other."""
_NUMBERS = ("number", "num_tokens", "num_rows", "num_decode_rows", "num_logits", "num_columns", "max_kv_length")
_ARRAYS = ("input_ids", "token_slots", "position_ids", "token_rows", "query_starts", "kv_lengths", "logit_indices")
_NONE = np.empty(0, dtype=np.int32)
_NOT_CHOSEN_HERE = SamplingPlan(True, _NONE, _NONE, _NONE, _NONE, _NONE, _NONE, _NONE, _NONE, _NONE)


def told_of(plan: StepPlan) -> Told:
    """What the other ranks are told of a plan: all but how tokens are chosen."""
    parts = [getattr(plan, name) for name in _ARRAYS]
    parts.append(plan.block_tables[:, : plan.num_columns].ravel())
    return tuple(int(getattr(plan, name)) for name in _NUMBERS), np.concatenate(parts).tobytes()


def plan_told(told: Told, buffers: PlanBuffers) -> StepPlan:
    """Write a plan that was told into `buffers`."""
    numbers: dict[str, Any] = dict(zip(_NUMBERS, told[0], strict=True))
    tokens, rows, columns = numbers["num_tokens"], numbers["num_rows"], numbers["num_columns"]
    counts = (tokens, tokens, tokens, tokens, rows + 1, rows, numbers["num_logits"])
    source = np.frombuffer(told[1], dtype=np.int32)
    arrays: dict[str, Any] = {}
    begin = 0
    for name, count in zip(_ARRAYS, counts, strict=True):
        arrays[name] = buffers.arrays[name][:count]
        arrays[name][:] = source[begin : begin + count]
        begin += count
    tables = buffers.arrays["block_tables"][:rows]
    tables[:, :columns] = source[begin:].reshape(rows, columns)
    return StepPlan(**numbers, **arrays, block_tables=tables, sampling=_NOT_CHOSEN_HERE, buffers=buffers)


class LeadingSteps:
    """Rank 0's `stepper.StepRunner`: each step is told to the others and then run here.

    Parameters
    ----------
    runner
        This rank's.
    post
        Sends a message to the others.
    key
        Which of their runners is meant.
    turn
        Held from telling a step until it is queued here, so that this thread's collectives are not mixed with those of
        another that leads.
    """

    def __init__(
        self, runner: StepRunner, post: Callable[[Any], None], key: int, turn: AbstractContextManager[Any]
    ) -> None:
        self._runner, self._post, self._key, self._turn = runner, post, key, turn
        self._closed = False
        self.backend, self.device, self.limits = runner.backend, runner.device, runner.limits
        self.queue_depth = runner.queue_depth

    def submit(self, step: StepPlan) -> StepTicket:
        """Have every rank queue one step.

        Raises
        ------
        RunnerLostError
            Whatever went wrong: the others may be in the midst of the step.
        """
        try:
            with self._turn:
                self._post(("inflight_step", self._key, told_of(step)))
                return _LedTicket(self._runner.submit(step))
        except Exception as error:
            raise _lost(error) from error

    def memory(self) -> dict[str, int]:
        """Bytes held by this rank."""
        return self._runner.memory()

    def close(self) -> None:
        """Free every rank's engine and pool."""
        if self._closed:
            return
        self._closed = True
        with self._turn:
            self._post(("close_llm", self._key))
        self._runner.close()


class _LedTicket:
    """A ticket of rank 0; what fails on the device fails for all."""

    def __init__(self, ticket: StepTicket) -> None:
        self._ticket = ticket

    def tokens(self) -> np.ndarray:
        try:
            return self._ticket.tokens()
        except Exception as error:
            raise _lost(error) from error

    def log_probs(self) -> np.ndarray | None:
        return self._ticket.log_probs()


class FollowedSteps:
    """Another rank's side: runs what it is told.

    Parameters
    ----------
    runner
        This rank's, made with the ranks' communicator.
    """

    def __init__(self, runner: StepRunner) -> None:
        self.runner = runner
        on_gpu = runner.device.type == "cuda"
        # A copy from pinned memory may still be under way when `submit` returns: its buffers wait for its event.
        self._buffers = [PlanBuffers(runner.limits, pinned=on_gpu) for _ in range(runner.queue_depth + 1)]
        self._events: list[Any] = [None] * len(self._buffers)
        self._place = 0

    @property
    def limits(self) -> StepLimits:
        """The largest step."""
        return self.runner.limits

    def run(self, told: Told) -> None:
        """Queue one step."""
        place, self._place = self._place, (self._place + 1) % len(self._buffers)
        if self.runner.device.type == "cuda":
            torch.cuda.set_device(self.runner.device)  # of this thread, whichever it is
            if self._events[place] is not None:
                self._events[place].synchronize()
        self.runner.submit(plan_told(told, self._buffers[place]))
        if self.runner.device.type == "cuda":
            self._events[place] = torch.cuda.Event()
            self._events[place].record()

    def close(self) -> None:
        """Free the engine and the pool."""
        self.runner.close()


def _lost(error: Exception) -> RunnerLostError:
    if isinstance(error, RunnerLostError):
        return error
    return RunnerLostError(
        "A step failed on rank 0, and the other ranks may be in the midst of it: the batch has ended.",
        where="rank 0",
        remedy="Start the ranks again; the details tell what happened.",
        details=f"{type(error).__name__}: {error}",
    )
