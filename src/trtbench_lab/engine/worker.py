"""The build worker: a process of its own that builds the ranks it is told to, and reports by JSON lines.

Started as ``python -m trtbench_lab.engine.worker CONTROL_FD EVENTS_FD LIFE_FD OWNER_PID``. The first line on the
control pipe is the request; a later line ``cancel`` asks it to stop. Whatever native code prints goes to the
standard streams, which the owner reads as the log. The process ends without running finalizers: a native library
that crashes while it is unloaded cannot spoil a finished build.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import BuildCancelled, BuildError, StorageError, TrtbenchError
from ..storage import storage_error
from .events import decode_message, encode_message, message_from_error
from .logs import SEVERITIES
from .memory import peak_bytes_of
from .watchdog import start_watchdog

if TYPE_CHECKING:
    from ..backends.protocol import Builder


class EventPipe:
    """The write end of the events pipe; whole lines only, from any thread."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def send(self, type_: str, **fields: Any) -> None:
        """Write one message; an owner that is gone is no error here, the watchdog sees to it."""
        line = encode_message({"type": type_, **fields})
        with self._lock, suppress(BrokenPipeError):
            while line:
                line = line[os.write(self._descriptor, line) :]


class PipeReporter:
    """The `BuildReporter` that builders get: phases and lines go to the events pipe."""

    def __init__(self, pipe: EventPipe, cancelled: threading.Event):
        self._pipe = pipe
        self._cancelled = cancelled
        self.rank: int | None = None
        self.current = "start"

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Report the body as the phase `name`; a cancelled build stops at its border."""
        self.check_cancelled()
        outer, self.current = self.current, str(name)
        started = time.monotonic()
        self._send_phase(name, "running", started)
        try:
            yield
        except BaseException:
            self._send_phase(name, "failed", started)
            raise
        self._send_phase(name, "done", started)
        self.current = outer
        self.check_cancelled()

    def log(self, level: str, message: str) -> None:
        """Add a line to the build's log; an unknown level counts as info."""
        severity = level if level in SEVERITIES else "info"
        for line in str(message).splitlines() or [""]:
            self._pipe.send("log", severity=severity, text=line, rank=self.rank)

    def check_cancelled(self) -> None:
        """Raise `BuildCancelled` when the owner has asked to stop."""
        if self._cancelled.is_set():
            raise BuildCancelled("The build was cancelled.")

    def _send_phase(self, name: str, state: str, started: float) -> None:
        elapsed_s = time.monotonic() - started
        self._pipe.send("phase", name=str(name), state=state, phase_s=elapsed_s, rank=self.rank)


def builder_from_request(request: dict[str, Any]) -> Builder:
    """Return the builder that a request names: a backend of the registry, or a class by its import path."""
    path = request.get("builder")
    if path is None:
        from ..backends.registry import backend

        return backend(request["backend"])
    module, _, name = path.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found()


def build_ranks(request: dict[str, Any], report: PipeReporter) -> None:
    """Build every rank of `request` into its staging folder.

    Raises
    ------
    TrtbenchError
        For whatever goes wrong, with a remedy; anything unforeseen is a `BuildError` that names backend and phase.
    """
    from ..backends.protocol import engine_file_name

    try:
        with report.phase(f"load the {request['backend']} backend"):
            from ..specs import BuildConfig

            builder = builder_from_request(request)
            config = BuildConfig.from_dict(request["build_config"])
        if request["verify_checkpoint"]:
            with report.phase("verify the checkpoint"):
                # The key of the engine is that of the recorded content; weights that changed since must not get it.
                verify_checkpoint(Path(request["checkpoint_dir"]), report.check_cancelled)
        staging = Path(request["staging_dir"])
        for rank in request["ranks"]:
            report.rank = rank
            checkpoint_dir, refit_from = Path(request["checkpoint_dir"]), request.get("refit_from")
            if refit_from is None:
                builder.build(checkpoint_dir, rank, config, staging, report)
            else:
                builder.refit(Path(refit_from), checkpoint_dir, rank, config, staging, report)  # type: ignore[attr-defined]
            engine = staging / engine_file_name(rank)
            if not engine.is_file() or engine.stat().st_size == 0:
                raise BuildError(
                    f"The {request['backend']} backend finished but wrote no engine for rank {rank}.",
                    where=engine.name,
                    remedy="This is a fault of the backend; the build log says what it did.",
                )
        report.rank = None
    except TrtbenchError:
        raise
    except Exception as error:
        raise translated(error, request["backend"], report.current, request["staging_dir"]) from error


def verify_checkpoint(directory: Path, check: Callable[[], None]) -> None:
    """Compare the files of a checkpoint with its manifest; one without (another tool's) has nothing to compare with.

    `check` is called before each file. Opening the checkpoint has seen to its headers; this reads the tensors' bytes.

    Raises
    ------
    CheckpointError
        When a file is not what was written.
    """
    from ..checkpoint.reader import open_checkpoint

    checkpoint = open_checkpoint(directory)
    if checkpoint.manifest is not None:
        checkpoint.verify(check)


def translated(error: Exception, backend: str, phase: str, staging_dir: str) -> TrtbenchError:
    """Return a library's exception as an error of ours that says what to do."""
    if isinstance(error, OSError) and error.errno is not None:
        return storage_error(error, error.filename or staging_dir, f"build the engine ({phase})")
    text = str(error).strip() or type(error).__name__
    first_line = text.splitlines()[0]
    details = "".join(traceback.format_exception(error))
    # Serializers report a full disk in their own exceptions, with the system's sentence in the text.
    if os.strerror(errno.ENOSPC).lower() in text.lower():
        full = storage_error(OSError(errno.ENOSPC, first_line), staging_dir, f"build the engine ({phase})")
        return StorageError(full.what, where=full.where, remedy=full.remedy, details=details)
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "bad_alloc" in text:
        return BuildError(
            f"The memory was not enough to build the engine: {first_line}",
            where=f"{backend} backend, phase {phase!r}",
            remedy="Close other programs, lower max_batch_size or max_seq_len, use more ranks, or quantize.",
            details=details,
        )
    return BuildError(
        f"The build failed: {type(error).__name__}: {first_line}",
        where=f"{backend} backend, phase {phase!r}",
        remedy="The build log and the error's details say more; another backend or plugin choice may avoid it.",
        details=details,
    )


def main(arguments: list[str]) -> int:
    """Serve one request; return the exit status."""
    control_fd, events_fd, life_fd, owner_pid = (int(argument) for argument in arguments)
    for descriptor in (control_fd, events_fd, life_fd):
        os.set_inheritable(descriptor, False)
    watchdog = start_watchdog(life_fd, owner_pid)
    _prefer_for_oom_kill()
    _dump_python_stack_on_crash()
    pipe = EventPipe(events_fd)
    cancelled = threading.Event()
    control = os.fdopen(control_fd, "r", encoding="ascii")
    request = decode_message(control.readline())
    if request is None:
        return 2  # the owner died before it could say what to build
    pipe.send("hello", pid=os.getpid(), watchdog=watchdog)
    threading.Thread(target=_listen, args=(control, cancelled), daemon=True).start()
    report = PipeReporter(pipe, cancelled)
    status = 0
    try:
        build_ranks(request, report)
        _flush()
        pipe.send("done", peak_bytes=peak_bytes_of(os.getpid()))
    except TrtbenchError as error:
        _flush()
        pipe.send(**_as_fields(message_from_error(error)))
        status = 1
    if watchdog is not None:
        _end_helpers(watchdog)
    return status


def _as_fields(message: dict[str, Any]) -> dict[str, Any]:
    return {"type_": message["type"], **{name: value for name, value in message.items() if name != "type"}}


def _listen(control: IO[str], cancelled: threading.Event) -> None:
    for line in control:
        if line.strip() == "cancel":
            cancelled.set()


def _prefer_for_oom_kill() -> None:
    """When memory runs out, let the kernel take this process rather than the notebook that owns it (Linux)."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as handle:
        handle.write("500")


def _dump_python_stack_on_crash() -> None:
    import faulthandler

    with suppress(ValueError, OSError):
        faulthandler.enable(all_threads=False)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


def _end_helpers(watchdog: int) -> None:
    """End and reap what this worker started, so that no container without an init collects zombies."""
    import psutil

    children = psutil.Process().children(recursive=True)
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    with suppress(ChildProcessError):
        os.waitpid(watchdog, 0)


if __name__ == "__main__":
    status = 1
    try:
        status = main(sys.argv[1:])
    except BaseException:
        traceback.print_exc()
    _flush()
    os._exit(status)
