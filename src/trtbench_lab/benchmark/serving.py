"""The serving benchmark: requests that arrive by themselves, at random moments, at a running batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import RequestError, TrtbenchError
from ..progress import ProgressSink, phase
from .memory import MemoryProbe
from .result import MEMORY_OVER_TIME
from .serving_result import ServedRequest, ServingResult, StepColumns
from .static import NO_END, random_prompts

if TYPE_CHECKING:
    from ..runtime.inflight.batcher import InflightBatcher
    from ..runtime.inflight.handle import RequestHandle
    from ..specs import BenchConfig

DEFAULT_REQUESTS = 100


@dataclass(frozen=True)
class ServingRequest:
    """One request of the workload: exactly `output_length` tokens are generated, end tokens are passed over."""

    token_ids: Sequence[int]
    output_length: int


def random_workload(config: BenchConfig, vocab_size: int) -> list[ServingRequest]:
    """Return requests of random tokens, of the pairs of lengths in turn; a seed gives the same on any machine."""
    count = config.num_requests or DEFAULT_REQUESTS
    pairs = config.input_output_len
    lengths = [pairs[i % len(pairs)] for i in range(count)]
    longest = max(input_len for input_len, _ in lengths)
    rows = random_prompts(count, longest, vocab_size=vocab_size, seed=config.random_seed)
    return [ServingRequest(row[:i], o) for row, (i, o) in zip(rows, lengths, strict=True)]


def arrival_times_s(count: int, rate: float | None, seed: int) -> list[float]:
    """Return when each request is sent, in seconds from the start: a Poisson process, or all zeros without a rate."""
    import numpy as np

    if rate is None:
        return [0.0] * count
    gaps = np.random.default_rng([seed, count]).exponential(1.0 / rate, size=count)
    gaps[0] = 0.0
    return [float(moment) for moment in gaps.cumsum()]


def run_serving(
    batcher: InflightBatcher,
    config: BenchConfig,
    workload: Sequence[ServingRequest],
    *,
    model: str | None = None,
    name: str | None = None,
    facts: Mapping[str, Any] | None = None,
    progress: ProgressSink | None = None,
) -> ServingResult:
    """Send `workload` and wait for its end.

    `warm_up` requests (of the workload's beginning) run first, one after another, and are not counted. Then each
    request is sent at its moment, whether or not earlier ones have ended, unless `concurrency` are on their way; a
    request's clock starts when it is sent. Memory is watched meanwhile, from a thread that looks every 50 ms.

    Parameters
    ----------
    batcher
        The running batch; its timeline is recorded.
    config
        Rate, concurrency, service level, sampling.
    workload
        Requests in order of arrival.
    model, name, facts
        Labels and facts of the engine, as for `run_static`.
    progress
        Told as requests end.

    Raises
    ------
    RequestError
        Before anything is sent, when a request is outside the engine's limits; it is named by its place.
    """
    check_workload(batcher, workload)
    for request in workload[: config.warm_up]:
        _send(batcher, config, request, config.random_seed).result()
    batcher.timeline.clear()
    batcher.record = True
    preempted, reused = batcher.scheduler.preemptions, batcher.scheduler.blocks.reused_blocks
    moments = arrival_times_s(len(workload), config.request_rate, config.random_seed)
    places = threading.Semaphore(config.concurrency) if config.concurrency is not None else None
    handles: list[RequestHandle] = []
    with (
        MemoryProbe(batcher.runner.device, interval_s=0.05) as probe,
        phase("serve requests", progress, total=len(workload), unit="request") as current,
    ):
        started, ended = time.perf_counter(), 0
        for number, (moment, request) in enumerate(zip(moments, workload, strict=True)):
            if (ahead := started + moment - time.perf_counter()) > 0:
                time.sleep(ahead)
            if places is not None:
                places.acquire()
            handle = _send(batcher, config, request, config.random_seed + number)
            if places is not None:
                handle.on_end(places.release)
            handles.append(handle)
        for handle in handles:
            _wait(handle)
            before, ended = ended, sum(other.finished for other in handles)
            current.advance(ended - before)
    batcher.record = False
    t0 = min(handle.timing.sent_ns for handle in handles)
    steps = list(batcher.timeline)
    return ServingResult(
        backend=batcher.runner.backend,
        model=model,
        name=name,
        spec=config.to_dict(),
        request_rate=config.request_rate,
        concurrency=config.concurrency,
        slo_ms={key: float(value) for key, value in config.goodput.items()},
        requests=[_served(handle, request, t0) for handle, request in zip(handles, workload, strict=True)],
        steps=StepColumns(
            submitted_ns=[step.submitted_ns - t0 for step in steps],
            known_ns=[step.known_ns - t0 for step in steps],
            planning_ns=[step.planning_ns for step in steps],
            decode_rows=[step.counts.decode_rows for step in steps],
            prompt_tokens=[step.counts.prompt_tokens for step in steps],
            running=[step.counts.running for step in steps],
            waiting=[step.counts.waiting for step in steps],
            blocks_in_use=[step.counts.blocks_in_use for step in steps],
        ),
        max_running=batcher.runner.limits.max_batch_size,
        max_step_tokens=batcher.runner.limits.max_num_tokens,
        cache_blocks=batcher.scheduler.blocks.usable,
        tokens_per_block=batcher.runner.limits.tokens_per_block,
        preemptions=batcher.scheduler.preemptions - preempted,
        reused_blocks=batcher.scheduler.blocks.reused_blocks - reused,
        samples={MEMORY_OVER_TIME: {"serving": vars(probe.timeline)}},
        memory={tag: value for tag, value in probe.figures.as_metrics().items() if isinstance(value, int)},
        **dict(facts or {}),
    )


def check_workload(batcher: InflightBatcher, workload: Sequence[ServingRequest]) -> None:
    """Raise `RequestError` naming the first request that the engine cannot take."""
    for place, request in enumerate(workload):
        try:
            batcher.engine_limits.fitted([list(request.token_ids)], "error", request.output_length)
            batcher.scheduler.check(len(request.token_ids), request.output_length)
        except RequestError as error:
            raise RequestError(error.what, where=f"request {place}", remedy=error.remedy) from None


def _send(batcher: InflightBatcher, config: BenchConfig, request: ServingRequest, seed: int) -> RequestHandle:
    return batcher.submit(
        request.token_ids,
        max_new_tokens=request.output_length,
        end_id=NO_END,
        top_k=config.top_k,
        top_p=config.top_p,
        random_seed=seed,
    )


def _wait(handle: RequestHandle) -> None:
    try:
        handle.result()
    except TrtbenchError:
        return  # it is in the result, with its error


def _served(handle: RequestHandle, request: ServingRequest, t0_ns: int) -> ServedRequest:
    timing = handle.timing
    return ServedRequest(
        input_length=len(request.token_ids),
        output_length=request.output_length,
        sent_ns=timing.sent_ns - t0_ns,
        token_ns=[moment - t0_ns for moment in timing.token_ns],
        error=None if handle.error is None else str(handle.error),
        preemptions=handle.preemptions,
        reused_tokens=handle.reused_tokens,
    )
