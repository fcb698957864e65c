"""A linear layer that somebody else quantized, unpacked: integers, steps and zero points, nothing rounded again."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...errors import IntakeError


@dataclass(frozen=True)
class QuantizedLinear:
    """One linear layer.

    Attributes
    ----------
    weight
        (out, in): unsigned integers as int16 where there are zero points to subtract (0 … 2^bits − 1), signed ones as
        int8 where there are none, or float8_e4m3fn.
    bits
        Of a weight.
    scales
        (out, groups), (out, 1) or (1, 1): what one unit is worth, in the type of the file.
    zeros
        (out, groups) int16 in the weight's units; None for symmetric weights.
    group_of
        (in,) int64: the group of each input feature, where groups do not simply follow each other (act-order).
    pre_scale
        (in,): inputs are multiplied by it first; None otherwise.
    input_scale
        (1,): static step of the inputs; None otherwise.
    """

    weight: torch.Tensor
    bits: int
    scales: torch.Tensor
    zeros: torch.Tensor | None = None
    group_of: torch.Tensor | None = None
    pre_scale: torch.Tensor | None = None
    input_scale: torch.Tensor | None = None

    @property
    def group_size(self) -> int | None:
        """Input features of a group; None for one scale an output or a tensor."""
        groups = self.scales.shape[1]
        return None if groups == 1 and self.group_of is None else self.weight.shape[1] // groups

    @property
    def has_order(self) -> bool:
        """Whether neighbours along the input features belong to different groups."""
        if self.group_of is None:
            return False
        plain = torch.arange(len(self.group_of)) // (len(self.group_of) // self.scales.shape[1])
        return not torch.equal(self.group_of, plain)

    def dense(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return the weight (out, in), ``(q − zero) · scale``, rounded once to `dtype` (None: that of the scales)."""
        groups = self.groups_of_features()
        values = self.weight.float()
        if self.zeros is not None:
            values = values - self.zeros.float()[:, groups]
        # A difference of integers below 2^9 times a number of 11 bits or fewer fits float32: one rounding in all.
        return (values * self.scales.float()[:, groups]).to(dtype or self.scales.dtype)

    def groups_of_features(self) -> torch.Tensor:
        """(in,) int64: column of scales and zeros that belongs to each input feature."""
        width = self.weight.shape[1]
        if self.group_of is not None:
            return self.group_of
        return torch.arange(width) // -(-width // self.scales.shape[1])

    def signed(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return integers around 0 as int8 (out, in), and zero points in the same units as int16 (out, groups)."""
        if self.zeros is None:
            return self.weight, None
        half = 1 << (self.bits - 1)
        return (self.weight - half).to(torch.int8), self.zeros - half


def unpack_words(words: torch.Tensor, bits: int, count: int, dim: int) -> torch.Tensor:
    """Unpack unsigned integers of `bits` that follow each other in the bits of int32 words, the lowest bits first.

    Parameters
    ----------
    words
        int32, two dimensions.
    bits
        2, 3, 4, 5, 6, 7 or 8; an integer may cross from one word into the next.
    count
        Integers along `dim`.
    dim
        Dimension along which words follow each other.

    Returns
    -------
    int16 with `count` entries along `dim`
    """
    stream = words.to(torch.int64).movedim(dim, -1) & 0xFFFFFFFF
    start = torch.arange(count) * bits
    word, shift = start // 32, start % 32
    after = (word + 1).clamp_max(stream.shape[-1] - 1)
    found = (stream[..., word] >> shift) | (stream[..., after] << (32 - shift))
    return (found & ((1 << bits) - 1)).to(torch.int16).movedim(-1, dim).contiguous()


def words_needed(count: int, bits: int) -> int:
    """Return the int32 words that `count` integers take."""
    return -(-count * bits // 32)


def check_shape(name: str, tensor: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> None:
    """Raise `IntakeError` unless `tensor` has the shape (and type) that its format asks for."""
    if tuple(tensor.shape) != shape or (dtype is not None and tensor.dtype != dtype):
        kind = str(tensor.dtype).removeprefix("torch.")
        wanted = "" if dtype is None else f" {str(dtype).removeprefix('torch.')}"
        raise IntakeError(
            f"The tensor is {kind} {tuple(tensor.shape)}; its format asks for{wanted} {shape}.",
            where=name,
            remedy="quantization_config and weights do not belong together: fetch the model again.",
        )
