"""Quantization of weights: definitions, packing, and whole checkpoints."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import quantize_checkpoint
    from .report import LayerError, QuantizeReport
    from .weight_only import WeightOnlyScheme, dequantize, quantize

# Name → module: looked up when first used, because most of them load torch.
_PUBLIC = {
    "LayerError": "report",
    "QuantizeReport": "report",
    "WeightOnlyScheme": "weight_only",
    "dequantize": "weight_only",
    "quantize": "weight_only",
    "quantize_checkpoint": "checkpoint",
}
__all__ = ["LayerError", "QuantizeReport", "WeightOnlyScheme", "dequantize", "quantize", "quantize_checkpoint"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
