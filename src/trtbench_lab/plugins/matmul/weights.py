"""A linear layer's weight as the kernels read it, and the layout of 4-bit weights that they read fastest."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch

from ...errors import QuantizationError
from ..frame.contiguous import check_contiguous

KIND_CODES = {"dense": 0, "int8": 1, "int4": 2, "fp8": 3, "int8_int8": 4, "fp8_fp8": 3}
"""How a weight is stored → the kernels' number for it."""
WORD = 8
"""4-bit elements in an int32 word."""


@dataclass(frozen=True)
class LinearWeights:
    """The tensors of one linear layer ``y = x Wᵀ + b`` on a device.

    Attributes
    ----------
    kind
        ``"dense"``: weight (N, K) in the type of x. ``"int8"``: int8 (N, K). ``"int4"``: int8 (N, K / 2), two a byte,
        the even element in the low half (or `interleaved`). ``"fp8"``: float8_e4m3fn (N, K); x is rounded to FP8 with
        `input_scale` inside the kernel. ``"int8_int8"``: int8 (N, K), for x that is int8 already (SmoothQuant).
        ``"fp8_fp8"``: float8_e4m3fn (N, K), for x that is FP8 already, with a scale a row.
    weight
        See `kind`; contiguous, as all the others are.
    out_features, in_features
        N and K.
    scale
        (N,) or, in groups, (N, K / group_size), float. FP8: one element, float32. int8_int8: (N,) or one, float32.
        fp8_fp8: (N,) float32.
    group_size
        Neighbours along K that share a scale; None for one scale an output.
    zero
        (N, K / group_size) int8 or int16, subtracted from the stored integers (GPTQ); None for symmetric weights.
    pre_scale
        (K,), multiplied into x first (AWQ), in the type of x; or None.
    input_scale
        One element, float32: scale of the activations (FP8, static int8); None where rows have their own.
    bias
        (N,) or None.
    nibbles
        0 for the checkpoint's order of 4-bit elements; else elements K are cut into blocks of ``8 · nibbles``, and
        numbers i and i + 4 (i < 4) of int32 word j of a block are its elements ``2 · nibbles · i + 2 j`` and the next:
        neighbouring words then meet neighbouring inputs, and one bit operation yields two neighbours.
    """

    kind: str
    weight: torch.Tensor
    out_features: int
    in_features: int
    scale: torch.Tensor | None = None
    group_size: int | None = None
    zero: torch.Tensor | None = None
    pre_scale: torch.Tensor | None = None
    input_scale: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    nibbles: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes that one product reads of it."""
        parts = (self.weight, self.scale, self.zero, self.pre_scale, self.bias)
        return sum(part.nbytes for part in parts if part is not None)

    @functools.cached_property
    def as_they_lie(self) -> LinearWeights:
        """These weights, once all their tensors are known to be contiguous: looked at when a kernel first reads them.

        Raises
        ------
        SpecError
            When one of them is not.
        """
        names = ("weight", "scale", "zero", "pre_scale", "input_scale", "bias")
        check_contiguous("LinearWeights", **{name: getattr(self, name) for name in names})
        return self

    def interleaved(self) -> LinearWeights:
        """Return 4-bit weights in the kernels' order (see `nibbles`); others as they are. `plain` undoes it exactly."""
        block = interleave_block(self.in_features, self.group_size)
        if self.kind != "int4" or self.nibbles or not block:
            return self
        return replace(self, weight=interleave(self.weight, block), nibbles=block)

    def plain(self) -> LinearWeights:
        """Return the weights in the checkpoint's order."""
        if not self.nibbles:
            return self
        return replace(self, weight=deinterleave(self.weight, self.nibbles), nibbles=0)


def interleave_block(in_features: int, group_size: int | None) -> int:
    """Return `LinearWeights.nibbles` for a weight, at most 16 (a block of 128 elements), or 0 where K does not divide.

    A block never leaves its group, so that the elements of a word share their scale.
    """
    group = in_features if group_size is None else group_size
    return next((size for size in (16, 8, 4) if group % (WORD * size) == 0 and in_features % (WORD * size) == 0), 0)


def interleave(packed: torch.Tensor, nibbles: int) -> torch.Tensor:
    """Reorder 4-bit weights, int8 (N, K / 2), for the kernels: the same elements in the same bytes in all."""
    rows = packed.shape[0]
    elements = _elements(packed).view(rows, -1, 4, nibbles, 2)  # [block, i, j, h] is number i + 4 h of word j
    return _packed(elements.permute(0, 1, 3, 4, 2).reshape(rows, -1))


def deinterleave(packed: torch.Tensor, nibbles: int) -> torch.Tensor:
    """Undo `interleave`."""
    rows = packed.shape[0]
    elements = _elements(packed).view(rows, -1, nibbles, 2, 4)
    return _packed(elements.permute(0, 1, 4, 2, 3).reshape(rows, -1))


def _elements(packed: torch.Tensor) -> torch.Tensor:
    """Split bytes into their halves, the low one first: uint8 (N, K)."""
    unsigned = packed.view(torch.uint8)
    return torch.stack((unsigned & 0x0F, unsigned >> 4), dim=-1).flatten(-2)


def _packed(elements: torch.Tensor) -> torch.Tensor:
    return (elements[:, 0::2] | (elements[:, 1::2] << 4)).view(torch.int8)


def check_multiple(weights: LinearWeights, multiple: int) -> None:
    """Raise `QuantizationError` where K does not divide as a kernel needs it."""
    if weights.in_features % multiple:
        raise QuantizationError(
            f"{weights.in_features} input features are not a multiple of {multiple}, which the 4-bit kernel needs.",
            where="weight",
            remedy="Use 8 bits for this layer, or exclude it.",
        )
