"""A workbench for TensorRT LLM engines: from a Hugging Face model to a measured, trusted engine.

Importing this package loads none of the heavy libraries; each public name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

# Public name → the module that defines it. This table is the package's public surface.
_PUBLIC: dict[str, str] = {
    "AutoModelForCausalLM": "models",
    "GPTBigCodeForCausalLM": "models",
    "GPTForCausalLM": "models",
    "LLaMAForCausalLM": "models",
    "QWenForCausalLM": "models",
    "InternLMForCausalLM": "models",
    "MistralForCausalLM": "models",
    "BenchConfig": "specs",
    "BuildConfig": "specs",
    "Mapping": "specs",
    "ModelConfig": "specs",
    "PluginConfig": "specs",
    "QuantAlgo": "specs",
    "QuantConfig": "specs",
    "SamplingConfig": "specs",
    "Engine": "engine",
    "build": "engine",
    "start_build": "engine",
    "ModelRunner": "runtime",
    "ResultsDatabase": "results",
    "TrtbenchError": "errors",
    "demo_corpus_path": "demo",
    "demo_model_dir": "demo",
}

__all__ = ["__version__", "load_ipython_extension", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """Register the magics; called by ``%load_ext trtbench_lab``."""
    from .magics import register

    register(ipython)
