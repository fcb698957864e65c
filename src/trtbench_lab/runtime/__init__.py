"""Running engines: sessions, sampling, beams, streaming; and Hugging Face behind the same interface and clock."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .hf import HFRunner
    from .limits import EngineLimits
    from .llm import LLM
    from .runner import ModelRunner
    from .session import Session
    from .streaming import TextStream, stream_text
    from .timing import GenerationTiming, TokenClock

# Loaded on first use: readers of stored timings need `timing` alone, and no torch.
_PUBLIC = {
    "EngineLimits": "limits",
    "GenerationTiming": "timing",
    "HFRunner": "hf",
    "LLM": "llm",
    "ModelRunner": "runner",
    "Session": "session",
    "TextStream": "streaming",
    "TokenClock": "timing",
    "stream_text": "streaming",
}

__all__ = [
    "LLM",
    "EngineLimits",
    "GenerationTiming",
    "HFRunner",
    "ModelRunner",
    "Session",
    "TextStream",
    "TokenClock",
    "stream_text",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    globals()[name] = value
    return value
