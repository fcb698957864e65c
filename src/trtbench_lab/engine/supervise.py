"""Watches build workers until they have finished: one loop reads events and native output, beats, and cancels."""

from __future__ import annotations

import select
import signal
import time
from typing import Any

from ..errors import BuildError, TrtbenchError
from .events import decode_message, error_from_message
from .logs import LineClassifier, LineCutter
from .memory import oom_kills, peak_bytes_of, resident_bytes_of_tree
from .monitor import BuildMonitor
from .process import WorkerProcess, exit_sentence, read_available

GRACE_S = 2.0  # from the polite request to SIGTERM
TERM_S = 1.0  # from SIGTERM to SIGKILL, which nothing outlives
_BEAT_S = 0.5
_TURN_S = 0.2
_START = "start the build process"


class _Watched:
    """A worker with what was read from it so far."""

    def __init__(self, process: WorkerProcess):
        self.process = process
        self.messages, self.output = LineCutter(limit_chars=None), LineCutter()
        self.classifier = LineClassifier()
        self.open_fds = {process.events_fd, process.output_fd}
        self.exit_status: int | None = None
        self.done = False
        self.error: TrtbenchError | None = None
        self.peak_bytes = 0
        self.cancel_steps = 0
        self.phase = _START
        self.rank: int | None = process.ranks[0] if len(process.ranks) == 1 else None
        self.started = time.monotonic()


def run_workers(requests: list[dict[str, Any]], monitor: BuildMonitor) -> None:
    """Start one worker a request, all at once, and return when every one has done its work.

    Raises
    ------
    BuildCancelled
        When the monitor was cancelled or ran out of time; some three seconds later at most, no process is left.
    TrtbenchError
        The first error that a worker reported, or a `BuildError` for a worker that died. The others are ended.
    """
    kills_before = oom_kills()
    workers: list[_Watched] = []
    try:
        for number, request in enumerate(requests):
            workers.append(_Watched(WorkerProcess(request, number if len(requests) > 1 else None)))
            monitor.phase_changed(_START, "running", 0.0, workers[-1].rank)
        _watch(workers, monitor, kills_before)
    finally:
        for worker in workers:
            worker.process.close()


def _watch(workers: list[_Watched], monitor: BuildMonitor, kills_before: int | None) -> None:
    running = list(workers)
    next_beat = time.monotonic()
    while running:
        _wait_for_news(running, monitor)
        for worker in list(running):
            worker.exit_status = worker.process.poll()
            _read(worker, monitor)
            if worker.exit_status is None:
                _cancel_in_steps(worker, monitor)
                continue
            running.remove(worker)
            _read_rest(worker, monitor)
            _settle(worker, monitor, kills_before)
        if time.monotonic() >= next_beat:
            next_beat = time.monotonic() + _BEAT_S
            _beat(workers, running, monitor)


def _wait_for_news(running: list[_Watched], monitor: BuildMonitor) -> None:
    poll = select.poll()  # select.select fails on descriptors above 1023, which a long-lived notebook may have
    poll.register(monitor.wake_fd, select.POLLIN)
    for worker in running:
        for descriptor in worker.open_fds:
            poll.register(descriptor, select.POLLIN)
    ending = any(worker.done or worker.process.events_fd not in worker.open_fds for worker in running)
    poll.poll(5 if ending else _TURN_S * 1000)
    read_available(monitor.wake_fd)


def _read(worker: _Watched, monitor: BuildMonitor) -> None:
    """Take in what the worker has written since the last look."""
    process = worker.process
    for descriptor in sorted(worker.open_fds):
        data, ended = read_available(descriptor)
        if ended:
            worker.open_fds.discard(descriptor)
        if descriptor == process.output_fd:
            for text in worker.output.feed(data):
                monitor.add_line(worker.classifier.severity(text), text, worker.rank)
        else:
            for line in worker.messages.feed(data):
                _take_message(worker, line, monitor)


def _read_rest(worker: _Watched, monitor: BuildMonitor) -> None:
    """Take in what a worker wrote before it ended; not for ever, since a helper that outlives it may hold the pipes."""
    deadline = time.monotonic() + 0.5
    while worker.open_fds and time.monotonic() < deadline:
        before = len(worker.open_fds)
        _read(worker, monitor)
        if len(worker.open_fds) == before:
            time.sleep(0.01)
    for text in worker.output.finish():
        monitor.add_line(worker.classifier.severity(text), text, worker.rank)


def _take_message(worker: _Watched, line: str, monitor: BuildMonitor) -> None:
    message = decode_message(line)
    if message is None:
        monitor.add_line("warning", line, worker.rank)
        return
    match message["type"]:
        case "hello":
            worker.process.watchdog = message["watchdog"]
            monitor.phase_changed(_START, "done", time.monotonic() - worker.started, worker.rank)
        case "phase":
            worker.phase, worker.rank = message["name"], message["rank"]
            monitor.phase_changed(message["name"], message["state"], message["phase_s"], message["rank"])
        case "log":
            monitor.add_line(message["severity"], message["text"], message["rank"])
        case "done":
            worker.done = True
            worker.peak_bytes = max(worker.peak_bytes, message["peak_bytes"] or 0)
        case "error":
            worker.error = error_from_message(message)


def _cancel_in_steps(worker: _Watched, monitor: BuildMonitor) -> None:
    """Ask first, then SIGTERM, then SIGKILL: native code may not look at the request, and nothing outlives the last."""
    since = monitor.cancelled_for_s()
    if since is None:
        return
    if worker.cancel_steps == 0:
        worker.process.ask_to_cancel()
        worker.cancel_steps = 1
    if worker.cancel_steps == 1 and since > GRACE_S:
        worker.process.signal_group(signal.SIGTERM)
        worker.cancel_steps = 2
    if worker.cancel_steps == 2 and since > GRACE_S + TERM_S:
        worker.process.signal_group(signal.SIGKILL)
        worker.cancel_steps = 3


def _beat(workers: list[_Watched], running: list[_Watched], monitor: BuildMonitor) -> None:
    resident = 0
    for worker in running:
        pid = worker.process.pid
        resident += resident_bytes_of_tree(pid, without=worker.process.watchdog)
        worker.peak_bytes = max(worker.peak_bytes, peak_bytes_of(pid) or 0)
    monitor.beat(resident, max((worker.peak_bytes for worker in workers), default=0))


def _settle(worker: _Watched, monitor: BuildMonitor, kills_before: int | None) -> None:
    """Raise what an ended worker means, or return when it has done its work."""
    monitor.beat(0, worker.peak_bytes)
    if worker.done:
        return
    monitor.check_cancelled()
    if worker.error is not None:
        raise worker.error
    raise _death(worker, monitor, kills_before)


def _death(worker: _Watched, monitor: BuildMonitor, kills_before: int | None) -> BuildError:
    """Return the error for a worker that ended without a word."""
    status = worker.exit_status or 0
    tail = [str(line) for line in monitor.log.tail(50)]
    held = f" It held at most {worker.peak_bytes / 2**30:.2f} GiB." if worker.peak_bytes else ""
    last = f" Last line of its log: {tail[-1]}" if tail else ""
    return BuildError(
        f"The build process {exit_sentence(status)}.{held}{last}",
        where=f"phase {worker.phase!r}" + (f", rank {worker.rank}" if worker.rank is not None else ""),
        remedy=_remedy(status, kills_before),
        details="\n".join(tail) or None,
    )


def _remedy(status: int, kills_before: int | None) -> str:
    kept = "Nothing half-made was left behind."
    smaller = "close other programs, lower max_batch_size or max_seq_len, use more ranks, or quantize the weights"
    if status == -signal.SIGKILL:
        kills_now = oom_kills()
        if kills_before is not None and kills_now is not None and kills_now > kills_before:
            return f"The kernel ran out of memory and ended it: {smaller}. {kept}"
        return f"Somebody ended it from outside, or a container's memory limit did: in that case {smaller}. {kept}"
    if status == -signal.SIGBUS:
        return f"A mapped file was cut short under it: the disk is full, or the checkpoint changed meanwhile. {kept}"
    if status in (-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP):
        return f"Somebody ended it from outside; build again. {kept}"
    return f"Native code failed: the log's tail shows where. Try another backend or opt_level. {kept}"
