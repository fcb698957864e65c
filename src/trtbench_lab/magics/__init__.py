"""The magics ``%trt_build``, ``%trt_run`` … of a notebook: a line → one request → one call → its result."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["register"]


def register(ipython: InteractiveShell) -> None:
    """Add the magics and their completion to a running IPython; a second time changes nothing."""
    from .completer import add_completer
    from .verbs import TrtBench

    if "TrtBench" in ipython.magics_manager.registry:
        return
    ipython.register_magics(TrtBench)
    add_completer(ipython)
