"""Keep a result in the history; a history that cannot be written must not cost a person their result."""

from __future__ import annotations

import warnings
from typing import TypeVar

from ..errors import TrtbenchError
from ..results import Result
from ..results.database import ResultsDatabase

Kept = TypeVar("Kept", bound=Result)


class HistoryWarning(UserWarning):
    """A result could not be added to the database of results; it is still returned."""


def keep(result: Kept) -> Kept:
    """Add `result` to the database and return it."""
    try:
        ResultsDatabase().add(result)
    except TrtbenchError as error:
        warnings.warn(f"This result was not kept in the history. {error}", HistoryWarning, stacklevel=3)
    return result
