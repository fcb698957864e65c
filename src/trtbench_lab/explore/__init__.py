"""Look into engines and networks: layers, precision, tactics, memory, time; what is slow; two of them aligned."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compare import compare_explorations
    from .layer import Layer, TensorFacts
    from .onnx_report import LintReport, lint_file
    from .procedure import explore, profile
    from .result import ExplorationPair, ExploreResult, SlowPattern

_HOMES = {
    "ExplorationPair": "result",
    "ExploreResult": "result",
    "Layer": "layer",
    "LintReport": "onnx_report",
    "SlowPattern": "result",
    "TensorFacts": "layer",
    "compare_explorations": "compare",
    "explore": "procedure",
    "lint_file": "onnx_report",
    "profile": "procedure",
}

__all__ = [
    "ExplorationPair",
    "ExploreResult",
    "Layer",
    "LintReport",
    "SlowPattern",
    "TensorFacts",
    "compare_explorations",
    "explore",
    "lint_file",
    "profile",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
