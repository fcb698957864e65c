"""Weights that are not finite numbers, or that overflow the type they are stored in, are found while they stream by."""

from __future__ import annotations

import torch

from ..errors import CheckpointError, TrtbenchError

_DAMAGED = "The weights are damaged or were trained to overflow: fetch them again, or use a checkpoint from before."


def check_finite(
    name: str,
    tensor: torch.Tensor,
    *,
    where: str | None = None,
    error: type[TrtbenchError] = CheckpointError,
    stored_as: torch.dtype | None = None,
) -> None:
    """Raise `error` when `tensor` holds a NaN or an infinity, or would once it is stored.

    One pass of minimum and maximum, which carry NaN and infinity through: 16 to 39 GB/s on one core for values in the
    cache, where ``torch.isfinite(...).all()`` reaches 1.3. Only a tensor that fails is looked at element by element.

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
    low, high = torch.aminmax(tensor.detach())
    extremes = torch.stack((low, high))
    if not bool(torch.isfinite(extremes).all()):
        raise _not_finite(name, tensor.detach(), where, error)
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
