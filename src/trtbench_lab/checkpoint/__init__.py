"""Checkpoints: TensorRT-LLM's folder format, sharding and streaming."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .conversion import ConvertReport, config_from_source, convert
    from .layout import expected_tensors
    from .location import TensorLocation
    from .plan import ShardPlan, shard_plan
    from .reader import Checkpoint, RankWeights, open_checkpoint
    from .writer import CheckpointWriter, checkpoint_writer, write_checkpoint

# Name → module: looked up when first used, because most of them load torch.
_PUBLIC = {
    "Checkpoint": "reader",
    "CheckpointWriter": "writer",
    "ConvertReport": "conversion",
    "RankWeights": "reader",
    "ShardPlan": "plan",
    "TensorLocation": "location",
    "checkpoint_writer": "writer",
    "config_from_source": "conversion",
    "convert": "conversion",
    "expected_tensors": "layout",
    "open_checkpoint": "reader",
    "shard_plan": "plan",
    "write_checkpoint": "writer",
}
__all__ = [
    "Checkpoint",
    "CheckpointWriter",
    "ConvertReport",
    "RankWeights",
    "ShardPlan",
    "TensorLocation",
    "checkpoint_writer",
    "config_from_source",
    "convert",
    "expected_tensors",
    "open_checkpoint",
    "shard_plan",
    "write_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
