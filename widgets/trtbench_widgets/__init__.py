"""Views of trtbench-lab for notebooks: they hold choices and show results; everything is done by the library below.

Nothing here is loaded before it is asked for, so importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .build_monitor import BuildMonitor
    from .dashboard import Dashboard
    from .guide import Guide
    from .history_browser import HistoryBrowser
    from .layer_errors import LayerErrors
    from .planner import Planner
    from .rank_monitor import RankMonitor
    from .selector import PluginSelector, QuantSelector
    from .shard_plan import ShardPlan
    from .side_by_side import SideBySide

_HOMES = {
    "BuildMonitor": "build_monitor",
    "Dashboard": "dashboard",
    "Guide": "guide",
    "HistoryBrowser": "history_browser",
    "LayerErrors": "layer_errors",
    "Planner": "planner",
    "PluginSelector": "selector",
    "QuantSelector": "selector",
    "RankMonitor": "rank_monitor",
    "ShardPlan": "shard_plan",
    "SideBySide": "side_by_side",
}

__all__ = [
    "BuildMonitor",
    "Dashboard",
    "Guide",
    "HistoryBrowser",
    "LayerErrors",
    "Planner",
    "PluginSelector",
    "QuantSelector",
    "RankMonitor",
    "ShardPlan",
    "SideBySide",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trtbench_lab.errors import require

    require("anywidget", extra="widgets", purpose="show views in a notebook")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
