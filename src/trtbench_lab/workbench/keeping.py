"""Keep a result in the history; a history that cannot be written must not cost a person their result."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

from ..errors import TrtbenchError
from ..results import Result
from ..results.database import ResultsDatabase
from ..specs.command_line import command_line

Kept = TypeVar("Kept", bound=Result)
COMMAND = "command"
"""Name of a result's samples: the words of the command line that asked for it, the verb first."""
_ASKED: ContextVar[tuple[str, Any] | None] = ContextVar("asked", default=None)


class HistoryWarning(UserWarning):
    """A result could not be added to the database of results; it is still returned."""


def asked_by(verb: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a verb's function that lets `keep` know the request; of verbs inside verbs the outermost counts."""

    @functools.wraps(function)
    def with_request(spec: Any, **keywords: Any) -> Any:
        token = _ASKED.set(_ASKED.get() or (verb, spec))
        try:
            return function(spec, **keywords)
        finally:
            _ASKED.reset(token)

    return with_request


def keep(result: Kept) -> Kept:
    """Add `result`, with the command that asked for it, to the database and return it."""
    asked = _ASKED.get()
    if asked is not None:
        verb, spec = asked
        result = result.replace(samples={**result.samples, COMMAND: [verb, *command_line(verb, spec)]})
    try:
        ResultsDatabase().add(result)
    except TrtbenchError as error:
        warnings.warn(f"This result was not kept in the history. {error}", HistoryWarning, stacklevel=3)
    return result
