"""All families: every module here that declares `FAMILY` or `FAMILIES` is one, and nothing else knows them."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from ..errors import IntakeError, did_you_mean
from .base import Family
from .hf_config import HfConfig


@functools.cache
def all_families() -> tuple[Family, ...]:
    """Return every family, in the order of the module names."""
    package = importlib.import_module(__package__)
    found: list[Family] = []
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{__package__}.{info.name}")
        declared = getattr(module, "FAMILIES", None) or (getattr(module, "FAMILY", None),)
        found.extend(family for family in declared if family is not None)
    return tuple(found)


def architectures() -> dict[str, Family]:
    """Return every known class name of config.json and its family."""
    return {name: family for family in all_families() for name in family.architectures}


def family_for_architecture(name: str, *, where: str | None = None) -> Family:
    """Return the family of an architecture.

    Raises
    ------
    IntakeError
        When none has it, with the nearest known name.
    """
    known = architectures()
    if name not in known:
        # of names that differ in case only, the last is suggested: the canonical one
        choices = sorted(known, key=lambda choice: choice == known[choice].architectures[0])
        raise IntakeError(
            f"The architecture {name!r} is not supported.",
            where=where,
            remedy=did_you_mean(name, choices, limit=40),
        )
    return known[name]


def family_for_hf(hf_config: Mapping[str, Any], *, where: str = "config.json") -> Family:
    """Return the family of a Hugging Face configuration, by `architectures`, else by `model_type`.

    Raises
    ------
    IntakeError
        When the configuration is malformed or of an unknown family.
    """
    hf = HfConfig(hf_config, where)
    architecture = hf.architecture()
    if architecture is not None:
        for family in all_families():
            if architecture in family.base_architectures:
                return family
        return family_for_architecture(architecture, where=where)
    model_type = hf.text("model_type", default=None)
    if model_type is None:
        raise IntakeError(
            "The configuration names neither architectures nor model_type.",
            where=where,
            remedy="Fetch the model's config.json again; without a name the model's layout is unknown.",
        )
    types = {kind: family for family in all_families() for kind in family.model_types}
    if model_type not in types:
        raise IntakeError(
            f"The model type {model_type!r} is not supported.",
            where=where,
            remedy=did_you_mean(model_type, list(types), limit=20),
        )
    return types[model_type]
