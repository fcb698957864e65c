"""The verbs of the workbench: each takes one request spec, does the work through the rooms below, and keeps a result.

Command line and magics call these and nothing else, so a script that imports them does exactly what a notebook does::

    from trtbench_lab import workbench
    from trtbench_lab.specs.requests import ConvertSpec

    workbench.convert(ConvertSpec(source="demo:gpt2", output_dir="checkpoint", dtype="float32"))
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .measurement import bench

# A verb's module is loaded when the verb is first used: none of them is light, and most command lines need one.
_MODULES = {
    "doctor": "examination",
    "plan": "planning",
    "download": "intake",
    "convert": "intake",
    "quantize": "intake",
    "build": "building",
    "run": "generation",
    "compare": "comparison",
    "summarize": "scoring",
    "bench": "measurement",
    "explore": "exploration",
    "lint": "linting",
    "history": "listing",
    "mpi": "ranks",
    "report": "reporting",
}

__all__ = [
    "bench",
    "build",
    "compare",
    "convert",
    "doctor",
    "download",
    "explore",
    "history",
    "lint",
    "mpi",
    "plan",
    "quantize",
    "report",
    "run",
    "summarize",
]


def verb(name: str) -> Any:
    """Return the function of the verb `name`; what it keeps carries the request, and rank 0 of several does it."""
    from ..ranks.launch import ALONE, launched
    from .keeping import asked_by

    function = asked_by(name, getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name))
    if launched().size == 1 and ALONE not in os.environ:
        return function
    from .together import over_ranks

    return over_ranks(name, function)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = verb(name)
    return globals()[name]
