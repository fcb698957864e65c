"""Specs: immutable records of what to do, from which flags, widgets, config.json and documentation are made."""

from .bench import BenchConfig
from .build import BuildConfig
from .mapping import Mapping
from .model import ModelConfig
from .options import OptionInfo, Spec, option
from .plugin import PluginConfig
from .quant import QuantAlgo, QuantConfig
from .sampling import SamplingConfig

__all__ = [
    "BenchConfig",
    "BuildConfig",
    "Mapping",
    "ModelConfig",
    "OptionInfo",
    "PluginConfig",
    "QuantAlgo",
    "QuantConfig",
    "SamplingConfig",
    "Spec",
    "option",
]
