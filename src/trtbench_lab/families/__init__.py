"""Families of models: one small declaration each, found by `registry`."""

from .base import Family, Part, WeightRule
from .foreign import complete_config, config_to_json
from .registry import all_families, family_for_architecture, family_for_hf

__all__ = [
    "Family",
    "Part",
    "WeightRule",
    "all_families",
    "complete_config",
    "config_to_json",
    "family_for_architecture",
    "family_for_hf",
]
