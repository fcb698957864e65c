"""TensorRT's own account of what went wrong, turned into errors of ours."""

from __future__ import annotations

import threading
from typing import Any

from ...errors import EngineError

_MOST = 32
_REPORT = "If the request is within the engine's limits, run `trtbench doctor --conformance` and report its bundle."
# Member of ErrorCodeTRT → what to do about it.
_REMEDIES = {
    "FAILED_ALLOCATION": "Free device memory: a smaller batch or cache, fewer capacities, weight streaming, or more "
    "ranks.",
    "FAILED_INITIALIZATION": "Look at nvidia-smi: the driver must know the CUDA version of the TensorRT package.",
    "FAILED_EXECUTION": "Look at nvidia-smi for another process on this GPU, and run again with "
    "CUDA_LAUNCH_BLOCKING=1 to see which layer fails. " + _REPORT,
    "INVALID_CONFIG": "Build the engine again with the TensorRT version that is installed here.",
    "UNSUPPORTED_STATE": "Build the engine again on this machine.",
}


class ErrorLog:
    """Errors as TensorRT reports them, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._errors: list[tuple[Any, str]] = []
        self._overflowed = False

    def add(self, code: Any, text: str) -> None:
        """Keep one error; the first 32 are kept, since what follows is mostly their consequence."""
        with self._lock:
            if len(self._errors) < _MOST:
                self._errors.append((code, text))
            else:
                self._overflowed = True

    def clear(self) -> None:
        """Forget all errors."""
        with self._lock:
            self._errors.clear()
            self._overflowed = False

    @property
    def overflowed(self) -> bool:
        """Whether more errors came than were kept."""
        return self._overflowed

    def entries(self) -> list[tuple[Any, str]]:
        """Return (code, text) of each error."""
        with self._lock:
            return list(self._errors)

    def fault(self, what: str, *, where: str, remedy: str | None = None) -> EngineError:
        """Return an error with TensorRT's words behind `what`, and forget them.

        Parameters
        ----------
        what
            What failed, as a sentence.
        where
            File or call.
        remedy
            For errors that TensorRT says nothing on, or whose code says nothing.
        """
        entries = self.entries()
        self.clear()
        if not entries:
            return EngineError(what, where=where, remedy=remedy or _REPORT)
        code, text = entries[0]
        name = getattr(code, "name", str(code))
        first = text.strip().splitlines()[0] if text.strip() else "without a word"
        details = "\n".join(f"{getattr(each, 'name', each)}: {words}" for each, words in entries)
        return EngineError(
            f"{what.rstrip('.')}: {first} ({name}).",
            where=where,
            remedy=_REMEDIES.get(name, remedy or _REPORT),
            details=details,
        )


def error_recorder(trt: Any, log: ErrorLog) -> Any:
    """Return an `IErrorRecorder` that writes into `log`; it must live as long as what it is attached to."""

    class Recorder(trt.IErrorRecorder):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)

        def clear(self) -> None:
            log.clear()

        def num_errors(self) -> int:
            return len(log.entries())

        def has_overflowed(self) -> bool:
            return log.overflowed

        def get_error_code(self, index: int) -> Any:
            return log.entries()[index][0]

        def get_error_desc(self, index: int) -> str:
            return log.entries()[index][1]

        def report_error(self, code: Any, text: str) -> bool:
            log.add(code, text)
            return bool(code != trt.ErrorCodeTRT.SUCCESS)  # True ends the call that failed

    return Recorder()
