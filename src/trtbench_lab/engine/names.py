"""Names of the files in an engine folder, with the older naming that scripts of the field look for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..errors import IntakeError

if TYPE_CHECKING:
    from ..specs import ModelConfig

CONFIG_NAME = "config.json"
LOG_NAME = "build.log"
TIMING_CACHE_NAME = "model.cache"

# The older names use the name of the example folder that a family was built from, not that of its class.
_OLD_MODEL_NAMES = {"gpt2": "gpt", "gpt_bigcode": "gpt", "santacoder": "gpt", "mistral": "llama", "qwen2": "qwen"}


def legacy_engine_name(config: ModelConfig, rank: int) -> str:
    """Return ``{model}_{dtype}_tp{T}[_pp{P}]_rank{R}.engine``; the pipeline part is there only for several stages."""
    stages = f"_pp{config.mapping.pp_size}" if config.mapping.pp_size > 1 else ""
    return f"{_model_name(config.architecture)}_{config.dtype}_tp{config.mapping.tp_size}{stages}_rank{rank}.engine"


def _model_name(architecture: str) -> str:
    from ..families import family_for_architecture

    try:
        family = family_for_architecture(architecture).name
    except IntakeError:  # a family of another version: its class name tells enough
        stem = re.sub(r"(For|LM).*$", "", architecture).lower()
        return re.sub(r"[^a-z0-9]+", "_", stem).strip("_") or "model"
    return _OLD_MODEL_NAMES.get(family, family)
