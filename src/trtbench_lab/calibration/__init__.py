"""Calibrated quantization: run text through a model layer by layer, and write the checkpoint that follows from it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import quantize_model
    from .device import calibration_device
    from .tokens import CalibrationTokens, calibration_tokens

# Name → module: looked up when first used, because all of them load torch.
_PUBLIC = {
    "CalibrationTokens": "tokens", "calibration_device": "device", "calibration_tokens": "tokens",
    "quantize_model": "checkpoint",
}  # fmt: skip
__all__ = ["CalibrationTokens", "calibration_device", "calibration_tokens", "quantize_model"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
