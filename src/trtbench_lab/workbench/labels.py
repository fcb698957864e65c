"""The names by which results speak of models and their quantization."""

from __future__ import annotations

import re
from pathlib import Path

from ..specs import ModelConfig


def label_of(model_dir: Path | str) -> str:
    """Return the name by which results speak of a model folder."""
    path = Path(model_dir)
    # A hub snapshot's folder is named by its commit; the model's name is one above.
    if re.fullmatch(r"[0-9a-f]{40}", path.name):
        path = path.parent
    return path.name.replace("--", "/")


def quantization_label(config: ModelConfig) -> str:
    """Return a model's quantization as people say it: ``"W4A16, groups of 64"`` or ``"none"``."""
    quantization = config.quantization
    algo, cache = quantization.quant_algo, quantization.kv_cache_quant_algo
    parts = []
    if quantization.quantized_layers is not None:
        kinds = [quantization.of_module(module).quant_algo for module in quantization.quantized_layers]
        counts = {kind.value: kinds.count(kind) for kind in kinds if kind is not None}
        parts.append("mixed: " + " + ".join(f"{count} × {name}" for name, count in sorted(counts.items())))
    elif algo is not None:
        parts.append(algo.value)
        if algo.is_weight_only or algo.is_groupwise:
            parts.append(f"groups of {quantization.group_size}" if quantization.group_size else "per channel")
        if not quantization.excludes("lm_head"):
            parts.append("lm_head too")
    if cache is not None:
        parts.append(f"K/V cache {cache.value}")
    return ", ".join(parts) or "none"
