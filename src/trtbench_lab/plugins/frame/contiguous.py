"""Kernels read rows one after the other, as they lie: tensors with other strides are refused, or numbers are wrong."""

from __future__ import annotations

import torch

from ...errors import SpecError


def check_contiguous(where: str, **tensors: torch.Tensor | None) -> None:
    """Raise `SpecError` for the first of the named tensors whose rows do not follow one another; None is absent."""
    for name, tensor in tensors.items():
        if tensor is not None and not tensor.is_contiguous():
            raise SpecError(
                f"{name} {tuple(tensor.shape)} has strides {tensor.stride()}; kernels read one row after the other.",
                where=where,
                remedy="Pass a contiguous tensor (`.contiguous()`), not a view of other extents or order.",
            )
