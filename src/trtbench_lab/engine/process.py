"""The owner's side of one build worker: start it, talk to it, end it with everything that it started."""

from __future__ import annotations

import os
import signal
import site
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import BuildError
from ..ranks.gpus import gpus_here, with_first
from .events import encode_message

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]


class WorkerProcess:
    """One worker in a session of its own, with pipes for control, events, log and life.

    Parameters
    ----------
    request
        What to build; see `worker.build_ranks`.
    gpu
        Number, among the GPUs that this process may use, of the one that the worker finds first; None leaves it the
        first of all. Builders time kernels, so two at a time must not share one.

    Attributes
    ----------
    events_fd, output_fd
        Read ends, non-blocking: JSON lines, and whatever native code prints.
    watchdog
        Process id of the worker's watchdog, once the worker has said it.
    """

    def __init__(self, request: dict[str, Any], gpu: int | None = None):
        if not sys.executable:
            raise BuildError(
                "This Python does not know its own executable, so no build process can be started.",
                remedy="Run from an ordinary python or jupyter.",
            )
        control_read, self._control_fd = os.pipe()
        self.events_fd, events_write = os.pipe()
        self.output_fd, output_write = os.pipe()
        life_read, self._life_fd = os.pipe()
        theirs = (control_read, events_write, life_read)
        self.watchdog: int | None = None
        self.ranks: list[int] = list(request["ranks"])
        try:
            # -P: a file named like a library (random.py) in the notebook's folder must not take its place.
            command = [sys.executable, "-P", "-m", f"{__package__}.worker", *map(str, theirs), str(os.getpid())]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output_write,
                stderr=output_write,
                pass_fds=theirs,
                start_new_session=True,
                env={**_environment(), **({} if gpu is None else with_first(gpus_here(), gpu))},
            )
        except OSError as error:
            for descriptor in (self._control_fd, self.events_fd, self.output_fd, self._life_fd):
                os.close(descriptor)
            raise BuildError(
                f"The build process could not be started: {error.strerror or error}.",
                where=sys.executable,
                remedy="Check the memory and the number of processes that are left on this machine.",
            ) from error
        finally:
            for descriptor in (*theirs, output_write):
                os.close(descriptor)
        self._open = {self._control_fd, self.events_fd, self.output_fd, self._life_fd}
        os.set_blocking(self.events_fd, False)
        os.set_blocking(self.output_fd, False)
        self._send(encode_message({"type": "request", **request}))

    @property
    def pid(self) -> int:
        """Process id of the worker, which is its group's id too."""
        return self._process.pid

    def ask_to_cancel(self) -> None:
        """Ask the worker to stop at its next check."""
        self._send(b"cancel\n")

    def signal_group(self, number: int) -> None:
        """Send a signal to the worker and everything it started; nothing happens once the worker was reaped."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def poll(self) -> int | None:
        """Return the exit status (negative: the signal), or None while it runs."""
        return self._process.poll()

    def close(self) -> None:
        """End whatever still runs, reap the worker and close the pipes; may be called twice.

        Closing the life pipe makes the watchdog end what a crashed worker has left behind.
        """
        if self._process.poll() is None:
            self.signal_group(signal.SIGKILL)
            self._process.wait()
        for descriptor in self._open:
            os.close(descriptor)
        self._open = set()

    def _send(self, line: bytes) -> None:
        with suppress(OSError):  # a worker that is gone is seen by its exit status
            os.write(self._control_fd, line)


def read_available(descriptor: int) -> tuple[bytes, bool]:
    """Return what a non-blocking pipe holds, and whether its end was reached."""
    chunks: list[bytes] = []
    while True:
        try:
            chunk = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return b"".join(chunks), False
        if not chunk:
            return b"".join(chunks), True
        chunks.append(chunk)
        if len(chunks) >= 16:  # 1 MiB a turn, so that a flood leaves time for events and cancelling
            return b"".join(chunks), False


def exit_sentence(status: int) -> str:
    """Return how a process ended: ``"was ended by signal 11 (SIGSEGV: segmentation fault)"``."""
    if status >= 0:
        return f"ended with status {status} before it had finished"
    number = -status
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = "unknown"
    description = (signal.strsignal(number) or "").lower()
    return f"was ended by signal {number} ({name}: {description})" if description else f"was ended by signal {number}"


def _environment() -> dict[str, str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8:backslashreplace"}
    installed = {Path(folder).resolve() for folder in (*site.getsitepackages(), site.getusersitepackages())}
    if _PACKAGE_ROOT not in installed:  # site-packages itself must not come before the standard library
        earlier = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join([str(_PACKAGE_ROOT), *([earlier] if earlier else [])])
    return environment
