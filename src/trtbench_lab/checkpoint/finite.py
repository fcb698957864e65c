"""Weights that are not finite numbers, or that overflow the type they are stored in, are found while they stream by."""

from __future__ import annotations

import numpy as np
import torch

from ..errors import CheckpointError, TrtbenchError

_DAMAGED = "The weights are damaged or were trained to overflow: fetch them again, or use a checkpoint from before."


# The largest bit patterns of finite numbers: as signed integers for positive numbers (negative ones are smaller), as
# unsigned ones for negative numbers.
_INFINITY_BITS = {torch.float32: 0x7F800000, torch.float16: 0x7C00, torch.bfloat16: 0x7F80, torch.float64: 0x7FF << 52}
_SIGNED = {2: np.int16, 4: np.int32, 8: np.int64}
_UNSIGNED = {2: np.uint16, 4: np.uint32, 8: np.uint64}


def all_finite(block: torch.Tensor) -> bool:
    """Return whether a contiguous block is free of NaN and infinities; integers always are.

    Two integer maxima of the bit patterns: about 19 GB/s on one thread for every float type, where
    ``torch.isfinite(...).all()`` reaches 1.3.
    """
    block = _comparable(block)
    infinity = _INFINITY_BITS.get(block.dtype)
    if infinity is None or block.numel() == 0:
        return not block.is_floating_point() or bool(torch.isfinite(block).all())
    size = block.dtype.itemsize
    bits = block.detach().reshape(-1).view(torch.uint8).numpy()
    sign = 1 << (8 * size - 1)
    return int(bits.view(_SIGNED[size]).max()) < infinity and int(bits.view(_UNSIGNED[size]).max()) < sign + infinity


def check_finite(
    name: str,
    tensor: torch.Tensor,
    *,
    where: str | None = None,
    error: type[TrtbenchError] = CheckpointError,
    stored_as: torch.dtype | None = None,
) -> None:
    """Raise `error` when `tensor` holds a NaN or an infinity, or would once it is stored.

    Minimum and maximum carry NaN and infinity through; only a tensor that fails is looked at element by element.

    Parameters
    ----------
    name
        The tensor's name, for the message.
    tensor
        Any shape, any element type; integers and booleans pass at once.
    where
        The file or folder, for the message.
    error
        `IntakeError` where the tensor is a source's, `CheckpointError` where it is a checkpoint's.
    stored_as
        The floating type that the values will be cast to; None for no cast.
    """
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return
    tensor = _comparable(tensor.detach())
    low, high = torch.aminmax(tensor)
    extremes = torch.stack((low, high))
    if not bool(torch.isfinite(extremes).all()):
        raise _not_finite(name, tensor, where, error)
    if stored_as is None or stored_as is tensor.dtype:
        return
    if not bool(torch.isfinite(extremes.to(stored_as)).all()):
        kind = str(stored_as).removeprefix("torch.")
        raise error(
            f"Tensor {name} reaches {float(extremes.abs().max()):g}, which {kind} cannot hold "
            f"(its largest value is {torch.finfo(stored_as).max:g}).",
            where=where,
            remedy="Choose dtype bfloat16 or float32.",
        )


def _comparable(values: torch.Tensor) -> torch.Tensor:
    """Return 8-bit floats in a type that the CPU compares, which holds each of them exactly; all others as they are."""
    if values.dtype.itemsize > 1 or not values.is_floating_point():
        return values
    return values.to(torch.float32 if values.dtype == torch.float8_e8m0fnu else torch.float16)


def _not_finite(name: str, values: torch.Tensor, where: str | None, error: type[TrtbenchError]) -> TrtbenchError:
    num_nan = num_bad = 0
    first: tuple[int, float] | None = None
    flat = values.reshape(-1)
    for start in range(0, flat.numel(), 1 << 22):  # in pieces: the masks of a large tensor would not fit beside it
        piece = flat[start : start + (1 << 22)]
        bad = ~torch.isfinite(piece)
        num_nan += int(torch.isnan(piece).sum())
        num_bad += int(bad.sum())
        if first is None and bool(bad.any()):
            at = int(bad.nonzero()[0, 0])
            first = (start + at, float(piece[at]))
    index, value = first or (0, float("nan"))
    place = [int(i) for i in torch.unravel_index(torch.tensor(index), values.shape)]
    return error(
        f"Tensor {name} holds {num_nan:,} NaN and {num_bad - num_nan:,} infinite values of {values.numel():,}; "
        f"the first is {value} at {place}.",
        where=where,
        remedy=_DAMAGED,
    )
