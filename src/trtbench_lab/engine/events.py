"""What a running build tells: events for people and widgets, and the JSON lines that cross the process border."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .. import errors
from ..errors import BuildError, TrtbenchError
from ..progress import ProgressEvent
from .present import bytes_text

STATES = ("waiting", "running", "cancelling", "done", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class BuildEvent:
    """One observation of a build.

    Attributes
    ----------
    kind
        ``"state"`` (of the whole build), ``"phase"`` (begun, done or failed), ``"log"`` (a line), ``"note"`` (an
        honest remark that config.json keeps) or ``"heartbeat"`` (time passes: nobody knows a percentage).
    elapsed_s
        Seconds since the build was asked for.
    text
        The state, the phase's name, the line or the note.
    state
        Of a phase: ``"running"``, ``"done"`` or ``"failed"``.
    severity
        Of a log line: debug, info, warning or error.
    phase_s
        Of a phase and a heartbeat: seconds in the phase.
    rank
        The rank concerned, where there is one.
    resident_bytes, peak_bytes
        Of a heartbeat: memory that the build's processes hold now, and the most they held.
    """

    kind: str
    elapsed_s: float
    text: str
    state: str | None = None
    severity: str | None = None
    phase_s: float | None = None
    rank: int | None = None
    resident_bytes: int | None = None
    peak_bytes: int | None = None

    def as_progress(self) -> ProgressEvent | None:
        """Return the event in the form that progress displays take, or None where it says nothing to them."""
        if self.kind == "phase":
            return ProgressEvent(self.text, elapsed_s=self.phase_s or 0.0, state=self.state or "running")
        if self.kind == "heartbeat" and self.text:
            held = f"{bytes_text(self.resident_bytes)} of memory" if self.resident_bytes else None
            return ProgressEvent(self.text, elapsed_s=self.phase_s or 0.0, message=held)
        return None


def encode_message(message: dict[str, Any]) -> bytes:
    """Return a message as one line; ASCII only, so that any path survives, undecodable bytes included."""
    return json.dumps(message, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"


def decode_message(line: str) -> dict[str, Any] | None:
    """Return the message of a line, or None for a line that is none (a library wrote into our pipe)."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and isinstance(message.get("type"), str) else None


def message_from_error(error: TrtbenchError) -> dict[str, Any]:
    """Return an error as a message that `error_from_message` turns back into the same error."""
    return {
        "type": "error",
        "kind": type(error).__name__,
        "what": error.what,
        "where": error.where,
        "remedy": error.remedy,
        "details": error.details,
    }


def error_from_message(message: dict[str, Any]) -> TrtbenchError:
    """Return the error that a worker reported; a class unknown here becomes a `BuildError`."""
    kind = getattr(errors, str(message.get("kind")), None)
    if not (isinstance(kind, type) and issubclass(kind, TrtbenchError)):
        kind = BuildError
    return kind(
        str(message.get("what")),
        where=message.get("where"),
        remedy=message.get("remedy"),
        details=message.get("details"),
    )
