"""Specs: immutable records of what to do, from which flags, widgets, config.json and documentation are made."""

from .bench import BenchConfig
from .build import BuildConfig
from .calibration import CalibrationConfig
from .conflicts import Conflict, Gpu, apply_fix, find_conflicts, find_notes, find_warnings, raise_conflicts, settle
from .inflight import InflightConfig
from .mapping import Mapping
from .model import ModelConfig
from .options import OptionInfo, option
from .plugin import PluginConfig
from .quality import MaxDrop, QualityConfig
from .quant import QuantAlgo, QuantConfig
from .sampling import SamplingConfig
from .spec import Spec

__all__ = [
    "BenchConfig",
    "BuildConfig",
    "CalibrationConfig",
    "Conflict",
    "Gpu",
    "InflightConfig",
    "Mapping",
    "MaxDrop",
    "ModelConfig",
    "OptionInfo",
    "PluginConfig",
    "QualityConfig",
    "QuantAlgo",
    "QuantConfig",
    "SamplingConfig",
    "Spec",
    "apply_fix",
    "find_conflicts",
    "find_notes",
    "find_warnings",
    "option",
    "raise_conflicts",
    "settle",
]
