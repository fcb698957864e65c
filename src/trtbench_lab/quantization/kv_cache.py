"""The step of a quantized K/V cache: one for keys and values of a layer, as ``attention.kv_cache_scaling_factor``."""

from __future__ import annotations

from ..specs import QuantAlgo
from .fp8 import LARGEST as FP8_LARGEST
from .smoothquant import LARGEST as INT8_LARGEST


def cache_step(largest: float, algo: QuantAlgo) -> float:
    """Return what one unit of the cache is worth: the largest |k| or |v| seen, `largest`, is its largest number.

    A cache that saw nothing gets 1.
    """
    top = INT8_LARGEST if algo is QuantAlgo.INT8 else FP8_LARGEST
    return largest / top if largest > 0 else 1.0
