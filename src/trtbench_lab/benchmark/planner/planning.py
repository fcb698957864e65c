"""One plan: configuration in, verdict, memory, times and choices out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ...specs import ModelConfig, QuantConfig
from .result import PlanResult


def plan(
    model: ModelConfig | Path | str,
    *,
    gpu: str | Sequence[str] = "this",
    tp_size: int = 1,
    pp_size: int = 1,
    quantization: str | QuantConfig = "none",
    kv_cache_dtype: str | None = None,
    group_size: int | None = None,
    dtype: str = "auto",
    backend: str = "auto",
    batch_size: int | Sequence[int] = 1,
    input_len: int = 512,
    output_len: int = 128,
    max_batch_size: int | None = None,
    max_seq_len: int | None = None,
    target: str | Mapping[str, float] | None = None,
    name: str | None = None,
) -> PlanResult:
    """Return what a model will need and reach on a GPU."""
    raise RuntimeError("being written")
