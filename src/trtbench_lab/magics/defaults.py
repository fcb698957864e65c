"""Defaults that ``%config TrtBench`` sets for all later lines; what is not set stays with the specs."""

from __future__ import annotations

from typing import Any

from traitlets import Bool, Enum, Float, Int, TraitType
from traitlets.config import Configurable

from ..specs import BenchConfig, BuildConfig, SamplingConfig
from ..specs.coerce import without_none
from ..specs.options import OptionInfo
from ..specs.requests import CompareSpec, ConvertSpec
from ..specs.spec import Spec

# Option names that are worth setting once for a notebook, and a spec that has each.
_OPTIONS: dict[str, type[Spec]] = {
    "backend": BuildConfig,
    "compute_dtype": BuildConfig,
    "max_batch_size": BuildConfig,
    "max_input_len": BuildConfig,
    "dtype": ConvertSpec,
    "hf_dtype": CompareSpec,
    "max_new_tokens": SamplingConfig,
    "duration_s": BenchConfig,
    "warm_up": BenchConfig,
}
DEFAULT_NAMES = tuple(_OPTIONS)


def _trait(info: OptionInfo) -> TraitType[Any, Any]:
    words = f"{info.help} None leaves it to each line."
    kind = without_none(info.annotation)
    if info.choices is not None:
        trait: TraitType[Any, Any] = Enum([None, *info.choices], default_value=None, allow_none=True, help=words)
    elif kind is int:
        trait = Int(default_value=None, allow_none=True, help=words)
    else:
        trait = Float(default_value=None, allow_none=True, help=words)
    return trait.tag(config=True)


def _traits() -> dict[str, TraitType[Any, Any]]:
    infos = {name: next(info for info in spec.options() if info.name == name) for name, spec in _OPTIONS.items()}
    return {name: _trait(info) for name, info in infos.items()}


_OptionDefaults: Any = type("_OptionDefaults", (Configurable,), _traits())


class Settings(_OptionDefaults):  # type: ignore[misc]
    """What ``%config TrtBench`` shows and changes."""

    show_progress = Bool(True, help="Show progress of anything over a second.").tag(config=True)
    show_notes = Bool(True, help="Say what followed from a line, and what in it did nothing.").tag(config=True)

    def option_defaults(self) -> dict[str, Any]:
        """Return option name → value, None where nothing was set."""
        return {name: getattr(self, name) for name in DEFAULT_NAMES}
