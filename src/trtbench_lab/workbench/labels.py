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
    if quantization.quant_algo is None:
        return "none"
    grouping = f"groups of {quantization.group_size}" if quantization.group_size else "per channel"
    head = "" if quantization.excludes("lm_head") else ", lm_head too"
    return f"{quantization.quant_algo.value}, {grouping}{head}"
