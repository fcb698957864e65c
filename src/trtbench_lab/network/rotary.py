"""Rotary position tables: plain, linearly scaled, and LLaMA 3's frequency-dependent scaling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import SpecError

SCALINGS = ("default", "linear", "llama3")


def inverse_frequencies(rotary_dim: int, base: float, scaling: Mapping[str, Any] | None) -> torch.Tensor:
    """Return the angle a position adds to each pair of elements, (rotary_dim / 2,) float32.

    Parameters
    ----------
    rotary_dim
        Elements of a head that are rotated.
    base
        The wavelength's base, ``rotary_base`` (rope_theta).
    scaling
        None, or the Hugging Face form: ``{"rope_type": "linear", "factor": …}`` or ``{"rope_type": "llama3",
        "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}``.

    Raises
    ------
    SpecError
        For a kind of scaling that the network has no table for, or a missing field.
    """
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.int64, device="cpu").float() / rotary_dim
    frequencies = 1.0 / (base**exponents)
    kind = scaling_kind(scaling)
    if scaling is None or kind == "default":
        return frequencies
    factor = _number(scaling, "factor")
    if kind == "linear":
        return frequencies / factor
    low, high = _number(scaling, "low_freq_factor"), _number(scaling, "high_freq_factor")
    trained_length = _number(scaling, "original_max_position_embeddings")
    turns = trained_length * frequencies / (2 * math.pi)  # of a pair, over the length the model was trained on
    # Pairs that turn often keep their angle, slow ones are stretched by the factor, those between are blended.
    blend = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - blend) * frequencies / factor + blend * frequencies


def rotary_tables(
    rotary_dim: int, base: float, scaling: Mapping[str, Any] | None, num_positions: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (cos, sin), each (num_positions, rotary_dim / 2) float32.

    The angles are products in float32, as models were trained: a more exact table differs from what a model saw at
    positions beyond 10⁴.
    """
    positions = torch.arange(num_positions, dtype=torch.float32, device="cpu")
    angles = torch.outer(positions, inverse_frequencies(rotary_dim, base, scaling))
    return angles.cos(), angles.sin()


def scaling_kind(scaling: Mapping[str, Any] | None) -> str:
    """Return the kind of a ``rotary_scaling`` value, checked.

    Raises
    ------
    SpecError
        For a kind that the network has no table for.
    """
    if scaling is None:
        return "default"
    kind = str(scaling.get("rope_type", scaling.get("type", "default")))
    if kind not in SCALINGS:
        raise SpecError(
            f"Rotary scaling of type {kind!r} is not supported.",
            where="rotary_scaling",
            remedy=f"Supported: {', '.join(SCALINGS)}. Remove rotary_scaling to run within the trained length.",
        )
    return kind


def _number(scaling: Mapping[str, Any], name: str) -> float:
    value = scaling.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise SpecError(
            f"Rotary scaling needs a positive number for {name!r}, not {value!r}.",
            where=f"rotary_scaling.{name}",
            remedy="Copy the rope_scaling block of the model's own config.json.",
        )
    return float(value)
