"""A verb on several ranks: rank 0 does it and speaks, the others run their parts of its engines."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..errors import SpecError
from ..ranks import control, launched
from ..runtime.leading import agreed, together


def over_ranks(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` for a process that may be one of several: each of them calls it, and gets rank 0's result.

    In a process of its own it is the function itself, and nothing of MPI is loaded.
    """

    @functools.wraps(function)
    def call(spec: Any, **keywords: Any) -> Any:
        if launched().size == 1:
            return function(spec, **keywords)
        world = control()
        if world is not None:
            agreed(world, lambda: _request(name, spec), lambda request: request)
        return together(lambda: function(spec, **keywords))

    return call


def _request(name: str, spec: Any) -> dict[str, str]:
    to_dict = getattr(spec, "to_dict", None)
    if to_dict is None:
        raise SpecError(f"The verb {name} has no request.", where=name)
    return {"verb": name, "request": repr(sorted(to_dict().items(), key=str))}
