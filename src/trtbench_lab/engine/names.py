"""Names of the files in an engine folder, with the older naming that scripts of the field look for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..specs import ModelConfig

CONFIG_NAME = "config.json"
LOG_NAME = "build.log"
TIMING_CACHE_NAME = "model.cache"

# The older names use the name of the example folder that a model was built from, not that of its class.
_OLD_MODEL_NAMES = {
    "GPTForCausalLM": "gpt",
    "LlamaForCausalLM": "llama",
    "LLaMAForCausalLM": "llama",
    "QWenForCausalLM": "qwen",
    "InternLMForCausalLM": "internlm",
    "MistralForCausalLM": "llama",
}


def legacy_engine_name(config: ModelConfig, rank: int) -> str:
    """Return ``{model}_{dtype}_tp{T}[_pp{P}]_rank{R}.engine``; the pipeline part is there only for several stages."""
    model = _OLD_MODEL_NAMES.get(config.architecture)
    if model is None:
        stem = re.sub(r"(For|LM).*$", "", config.architecture).lower()
        model = re.sub(r"[^a-z0-9]+", "_", stem).strip("_") or "model"
    stages = f"_pp{config.mapping.pp_size}" if config.mapping.pp_size > 1 else ""
    return f"{model}_{config.dtype}_tp{config.mapping.tp_size}{stages}_rank{rank}.engine"
