"""Reading a Hugging Face config.json: typed look-ups, spellings of transformers 4 and 5, and refusals with a reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import IntakeError

# Spellings of one function: Hugging Face's names that the decoder knows under the name on the right.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_new",
    "gelu_pytorch_tanh": "gelu_pytorch_tanh",
    "gelu_fast": "gelu_pytorch_tanh",  # the same tanh polynomial, written with sqrt(2/pi) rounded
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}

_ROPE_PLAIN = ("default", None)
_ROPE_KNOWN = ("linear", "llama3")
_ABSENT = object()
_LARGEST_COUNT = 1 << 31  # beyond any model; larger numbers come from damaged files


class HfConfig:
    """One config.json as a family reads it.

    Parameters
    ----------
    values
        The parsed JSON object.
    where
        The file it came from, for messages.
    """

    def __init__(self, values: Mapping[str, Any], where: str = "config.json"):
        if not isinstance(values, Mapping):
            raise IntakeError(
                f"The configuration is not a JSON object but {_shown(values)}.",
                where=where,
                remedy="Fetch the model's config.json again.",
            )
        self.values = values
        self.where = where

    def get(self, *names: str, default: Any = _ABSENT) -> Any:
        """Return the first of `names` that is there and not null; without `default`, a missing one is an error."""
        for name in names:
            if self.values.get(name) is not None:
                return self.values[name]
        if default is _ABSENT:
            raise IntakeError(
                f"The configuration has no {' or '.join(repr(name) for name in names)}.",
                where=self.where,
                remedy="Fetch the model's config.json again; without this value its weights cannot be read.",
            )
        return default

    def count(self, *names: str, default: Any = _ABSENT, least: int = 1) -> Any:
        """Return a whole number of at least `least` (or `default`, which may be None)."""
        value = self.get(*names, default=default)
        if value is default:
            return value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _LARGEST_COUNT:
            raise self.unfit(names[0], value, f"a whole number from {least} to {_LARGEST_COUNT:,}")
        return value

    def number(self, *names: str, default: Any = _ABSENT) -> Any:
        """Return a finite number above 0."""
        value = self.get(*names, default=default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _usable(value):
            raise self.unfit(names[0], value, "a number above 0")
        return float(value)

    def flag(self, *names: str, default: Any = _ABSENT) -> bool:
        """Return a truth value."""
        value = self.get(*names, default=default)
        if not isinstance(value, bool):
            raise self.unfit(names[0], value, "true or false")
        return value

    def text(self, *names: str, default: Any = _ABSENT) -> Any:
        """Return a string (or `default`, which may be None)."""
        value = self.get(*names, default=default)
        if value is not default and not isinstance(value, str):
            raise self.unfit(names[0], value, "text")
        return value

    def unfit(self, name: str, value: Any, wanted: str) -> IntakeError:
        """Return the error for a value of the wrong kind."""
        return IntakeError(
            f"{name!r} must be {wanted}, not {_shown(value)}.",
            where=self.where,
            remedy="Fetch the model's config.json again.",
        )

    def refuse(self, name: str, harmless: Any, reason: str, *, remedy: str | None = None) -> None:
        """Raise when `name` is set to anything but `harmless`: the engine would be silently wrong otherwise."""
        value = self.values.get(name)
        if value is None or (value == harmless and isinstance(value, bool) == isinstance(harmless, bool)):
            return
        raise IntakeError(
            f"{name} = {_shown(value)} is not supported: {reason}.",
            where=self.where,
            remedy=remedy or f"Use a model with {name} = {_shown(harmless)}.",
        )

    def activation(self, *names: str, default: str) -> str:
        """Return the decoder's name of the MLP's activation."""
        value = self.text(*names, default=default)
        if value not in ACTIVATIONS:
            raise IntakeError(
                f"The activation {value!r} is not supported.",
                where=self.where,
                remedy=f"Supported: {', '.join(ACTIVATIONS)}.",
            )
        return ACTIVATIONS[value]

    def heads(self, heads_name: str, hidden_name: str) -> tuple[int, int, int]:
        """Return (num_attention_heads, hidden_size, head_size)."""
        heads, hidden = self.count(heads_name), self.count(hidden_name)
        head_size = self.count("head_dim", default=None)
        if head_size is None:
            if hidden % heads:
                raise IntakeError(
                    f"{hidden_name} = {hidden} does not divide by {heads_name} = {heads}.",
                    where=self.where,
                    remedy="Fetch the model's config.json again, or give head_dim in it.",
                )
            head_size = hidden // heads
        return heads, hidden, head_size

    def rope(self, default_base: float = 10000.0) -> tuple[float, dict[str, Any] | None]:
        """Return (rotary_base, rotary_scaling).

        transformers 5 keeps everything in `rope_parameters` (``{"rope_theta", "rope_type", …}``); transformers 4 has
        `rope_theta` beside `rope_scaling`, whose kind is spelled ``"rope_type"`` or, before 4.43, ``"type"``.
        """
        name = "rope_parameters" if self.values.get("rope_parameters") is not None else "rope_scaling"
        table = self.get(name, default={})
        if not isinstance(table, Mapping):
            raise self.unfit(name, table, "a table")
        nested = HfConfig(table, where=f"{self.where}, {name}")
        base = nested.number("rope_theta", default=self.number("rope_theta", default=default_base))
        for owner in (nested, self):
            owner.refuse("partial_rotary_factor", 1.0, "rotating only a part of each head is not read for this family")
        kind = nested.text("rope_type", "type", default=None)
        if kind in _ROPE_PLAIN:
            return base, None
        if kind not in _ROPE_KNOWN:
            raise IntakeError(
                f"The rotary scaling {kind!r} is not supported: positions would be rotated by wrong angles.",
                where=nested.where,
                remedy=f"Supported: default, {', '.join(_ROPE_KNOWN)}.",
            )
        scaling: dict[str, Any] = {"rope_type": kind, "factor": nested.number("factor")}
        if kind == "llama3":
            scaling["low_freq_factor"] = nested.number("low_freq_factor")
            scaling["high_freq_factor"] = nested.number("high_freq_factor")
            scaling["original_max_position_embeddings"] = nested.count("original_max_position_embeddings")
            if scaling["high_freq_factor"] <= scaling["low_freq_factor"]:
                raise nested.unfit("high_freq_factor", scaling["high_freq_factor"], "above low_freq_factor")
        return base, scaling

    def source_dtype(self) -> str | None:
        """Return the element type that the configuration names (`dtype`, before transformers 4.56 `torch_dtype`)."""
        value = self.text("dtype", "torch_dtype", default=None)
        return None if value is None else value.removeprefix("torch.")

    def architecture(self) -> str | None:
        """Return the first of `architectures`, None where the file names none."""
        names = self.get("architectures", default=None)
        if names is None or names == []:
            return None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self.unfit("architectures", names, "a list of names")
        return names[0]

    def refuse_quantized(self) -> None:
        """Raise when the weights are quantized already: their tensors are not plain matrices."""
        table = self.values.get("quantization_config")
        if table is None:
            return
        method = table.get("quant_method", "an unknown method") if isinstance(table, Mapping) else _shown(table)
        raise IntakeError(
            f"The model's weights are already quantized ({method}).",
            where=self.where,
            remedy="Start from the unquantized model and quantize it here.",
        )


def _usable(value: int | float) -> bool:
    try:
        return math.isfinite(value) and value > 0
    except OverflowError:  # an integer too long for a float
        return False


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
