"""A build in the background: its state, its log, its memory, and the means to wait for it or stop it."""

from __future__ import annotations

import atexit
import contextlib
import html
import threading
import weakref
from typing import cast

from ..errors import BuildError, TrtbenchError
from ..progress import ProgressSink
from .dispatch import Dispatcher, EventSink
from .events import BuildEvent
from .folder import Engine
from .logs import LogLine
from .monitor import BuildMonitor
from .plan import BuildPlan
from .present import bytes_text, html_facts, plain_facts, seconds_text
from .procedure import make_engine

_STOPPED_WITHIN_S = 4.5  # two seconds of asking, one of SIGTERM, and the clean-up

_running: weakref.WeakSet[BuildJob] = weakref.WeakSet()


class BuildJob:
    """One build that runs in a child process while the notebook stays free.

    Made by `start_build`. All methods may be called from any thread.
    """

    def __init__(self, plan: BuildPlan, *, progress: ProgressSink | None = None, on_event: EventSink | None = None):
        self.plan = plan
        self._monitor = BuildMonitor(plan.timeout_s, plan.build_config.log_level)
        self._dispatcher = Dispatcher(self._monitor, progress, on_event)
        self._finished = threading.Event()
        self._engine: Engine | None = None
        self._error: BaseException | None = None
        self._seconds: float | None = None
        self._thread = threading.Thread(target=self._run, name="trtbench-build", daemon=True)

    def start(self) -> BuildJob:
        """Begin; returns the job itself."""
        _running.add(self)
        self._dispatcher.start()
        self._thread.start()
        return self

    # ---- what it is doing ------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """One of ``events.STATES``: waiting (for another process), running, cancelling, done, failed or cancelled."""
        return self._monitor.state

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._finished.is_set()

    @property
    def phase(self) -> str:
        """The phase at hand; empty between phases and after the end."""
        return self._monitor.current_phase()[0]

    @property
    def elapsed_s(self) -> float:
        """Seconds since it was asked for, or that it took."""
        return self._monitor.elapsed_s if self._seconds is None else self._seconds

    @property
    def resident_bytes(self) -> int:
        """Resident memory of the build's processes, as last seen."""
        return self._monitor.resident_bytes

    @property
    def peak_bytes(self) -> int:
        """The most resident memory of the build's processes so far, mapped files included."""
        return self._monitor.peak_bytes

    @property
    def error(self) -> BaseException | None:
        """What stopped it; None while it runs and when it is done."""
        return self._error

    @property
    def notes(self) -> list[str]:
        """What the backend chose or cannot honour."""
        return list(self._monitor.notes)

    def events(self) -> list[BuildEvent]:
        """Return the events so far, oldest first (the last 10,000)."""
        return self._monitor.events_since(0)[0]

    def log_tail(self, count: int = 20) -> list[LogLine]:
        """Return the newest `count` lines of the log, oldest first."""
        with self._monitor.changed:
            return self._monitor.log.tail(count)

    # ---- its end ---------------------------------------------------------------------------------------------

    def wait(self, timeout_s: float | None = None) -> Engine:
        """Return the engine when the build is done.

        Raises
        ------
        TrtbenchError
            What stopped the build; `BuildCancelled` when it was cancelled or ran out of its time. A `BuildError` that
            it is still running, when `timeout_s` is over first; the build goes on.
        """
        if not self._finished.wait(timeout_s):
            raise BuildError(
                f"The build is still running after {timeout_s:g} s of waiting, in the phase {self.phase!r}.",
                remedy="Wait again, or call cancel().",
            )
        self._dispatcher.finish()
        if self._error is not None:
            raise self._error
        return cast(Engine, self._engine)  # a finished job without an error has an engine

    def cancel(self, reason: str = "The build was cancelled.", *, wait: bool = True) -> None:
        """Stop the build: the worker is asked, after two seconds told, and after three ended with all it started.

        Nothing half-made is left behind. Without `wait` it returns at once. A build that has ended stays as it is.
        """
        if self._finished.is_set():
            return
        if self._monitor.cancel(reason):
            self._monitor.set_state("cancelling")
        if wait and threading.current_thread() is not self._thread:
            self._finished.wait(_STOPPED_WITHIN_S)

    def _run(self) -> None:
        monitor = self._monitor
        state = "failed"
        try:
            self._engine = make_engine(self.plan, monitor)
            state = "done"
        except TrtbenchError as error:
            self._error = error
            state = "cancelled" if monitor.is_cancelled else "failed"
        except BaseException as error:
            self._error = _unforeseen(error)
        finally:
            self._seconds = monitor.elapsed_s
            monitor.resident_bytes = 0
            monitor.close()
            monitor.set_state(state)
            _running.discard(self)
            self._finished.set()
            self._dispatcher.finish(timeout_s=0)

    # ---- how it looks ----------------------------------------------------------------------------------------

    def _facts(self) -> dict[str, object]:
        name, phase_s = self._monitor.current_phase()
        facts: dict[str, object] = {
            "backend": self.plan.builder.backend,
            "state": self.state,
            "elapsed": seconds_text(self.elapsed_s),
        }
        if name:
            facts["phase"] = f"{name}, {seconds_text(phase_s)}"
        if self.peak_bytes:
            facts["memory"] = f"at most {bytes_text(self.peak_bytes)}"
        if self._error is not None:
            facts["error"] = str(self._error).splitlines()
        return facts

    def __repr__(self) -> str:
        tail = [f"    {line}" for line in self.log_tail(5)]
        return "\n".join([plain_facts("Build", self._facts()), *tail])

    def _repr_html_(self) -> str:
        tail = html.escape("\n".join(map(str, self.log_tail(8))))
        log = f'<pre style="margin:0;opacity:.75;background:transparent;color:inherit;">{tail}</pre>' if tail else ""
        return html_facts("Build", self._facts()) + log


def _unforeseen(error: BaseException) -> BuildError:
    import traceback

    wrapped = BuildError(
        f"The build failed unexpectedly: {type(error).__name__}: {error}",
        remedy="This is a fault of trtbench-lab; its details carry the traceback.",
        details="".join(traceback.format_exception(error)),
    )
    wrapped.__cause__ = error
    return wrapped


@atexit.register
def _cancel_running_jobs() -> None:
    """Leave no staging folder behind when the interpreter ends while builds run."""
    for job in list(_running):
        with contextlib.suppress(Exception):
            job.cancel("Python ended while the build was running.")
