"""Intermediate tensors of one run, told in numbers that two engines can be held against each other by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf, isfinite, prod
from typing import TYPE_CHECKING

from ..network.node_names import part_order

if TYPE_CHECKING:
    import torch

MOST_SAMPLES = 64


@dataclass(frozen=True, kw_only=True)
class TensorSummary:
    """What one part of the model gave.

    Attributes
    ----------
    part
        ``"transformer.layers.0.attention"``, ``"….mlp"``, the layer ``"transformer.layers.0"``, ``"transformer.ln_f"``.
    dtype, shape
        As the engine computes it: (rows, tokens, hidden), or (tokens, hidden) where tokens are packed.
    minimum, maximum, mean, rms
        Of its finite values; rms is the root of the mean square.
    not_finite
        Values that are infinite or no number.
    samples
        Values at `MOST_SAMPLES` places (all of a smaller tensor), evenly over it in the order of memory.
    """

    part: str
    dtype: str
    shape: tuple[int, ...]
    minimum: float
    maximum: float
    mean: float
    rms: float
    not_finite: int
    samples: tuple[float, ...]


def summaries(tensors: Mapping[str, torch.Tensor]) -> tuple[TensorSummary, ...]:
    """Return the summary of each tensor, by part in the order of computation."""
    return tuple(_summary(part, tensors[part]) for part in sorted(tensors, key=part_order))


def _summary(part: str, tensor: torch.Tensor) -> TensorSummary:
    import torch

    values = tensor.detach().to("cpu", torch.float64).flatten()
    finite = values[values.isfinite()]
    known = finite if finite.numel() else torch.zeros(1, dtype=torch.float64)
    places = torch.linspace(0, max(values.numel() - 1, 0), min(MOST_SAMPLES, values.numel())).round().long()
    return TensorSummary(
        part=part,
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        minimum=float(known.min()),
        maximum=float(known.max()),
        mean=float(known.mean()),
        rms=float(known.square().mean().sqrt()),
        not_finite=values.numel() - finite.numel(),
        samples=tuple(values[places].tolist()),
    )


def differences(
    first: Iterable[TensorSummary], second: Iterable[TensorSummary]
) -> list[tuple[str, TensorSummary, TensorSummary, float | None]]:
    """Return each part that both have, with the largest difference of its samples over the first one's rms.

    Infinite where a sample is no finite number; None where the two have different numbers of values: their samples are
    of other places.
    """
    others = {one.part: one for one in second}
    rows = []
    for one in first:
        other = others.get(one.part)
        if other is None:
            continue
        gap = None
        if _size(one) == _size(other) and one.rms:
            gaps = [abs(a - b) for a, b in zip(one.samples, other.samples, strict=True)]
            gap = max(gaps) / one.rms if all(map(isfinite, gaps)) else inf
        rows.append((one.part, one, other, gap))
    return rows


def _size(summary: TensorSummary) -> int:
    return prod(summary.shape)
