"""Reports: figures as pure functions of stored results, and one self-contained HTML file of both."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .figures import figures_for
    from .html import StoredReport, read_report, write_report
    from .notebook import use_offline_renderer
    from .sections import Code, Highlight, Section

_HOMES = {
    "Code": "sections",
    "Highlight": "sections",
    "Section": "sections",
    "StoredReport": "html",
    "figures_for": "figures",
    "read_report": "html",
    "use_offline_renderer": "notebook",
    "write_report": "html",
}

__all__ = [
    "Code",
    "Highlight",
    "Section",
    "StoredReport",
    "figures_for",
    "read_report",
    "use_offline_renderer",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
