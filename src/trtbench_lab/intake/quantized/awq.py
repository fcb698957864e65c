"""AWQ checkpoints as AutoAWQ writes them (version "gemm").

For a layer ``X`` of out × in with groups g, 4 bits::

    X.qweight  int32 (in, out / 8)        integers 0 … 15 along the outputs, eight a word
    X.qzeros   int32 (groups, out / 8)    zero points, packed alike
    X.scales   float16 (groups, out)

    w[o, i] = scales[i / g, o] · (q[i, o] − zero[i / g, o])

A word's lowest half byte is output 0 of its eight, the next ones outputs 2, 4, 6, 1, 3, 5 and 7. AWQ's factors of the
inputs are already part of the layers before.
"""

from __future__ import annotations

import torch

from ...checkpoint.source import TensorSource
from .linear import QuantizedLinear, check_shape, unpack_words

BITS = 4
OUTPUT_OF_NIBBLE = (0, 2, 4, 6, 1, 3, 5, 7)


def read_awq(source: TensorSource, name: str, *, with_weight: bool = True) -> QuantizedLinear:
    """Read the layer `name`; without its weight, that has a shape only (device ``meta``).

    Raises
    ------
    IntakeError
        When a tensor is missing or does not fit the others.
    """
    packed, scales = source.tensor(f"{name}.qweight"), source.tensor(f"{name}.scales")
    groups, out_features = scales.shape
    check_shape(f"{name}.qweight", packed, (packed.shape[0], out_features // 8), torch.int32)
    qzeros = source.tensor(f"{name}.qzeros")
    check_shape(f"{name}.qzeros", qzeros, (groups, out_features // 8), torch.int32)
    integers = torch.empty(out_features, len(packed), dtype=torch.int16, device="meta")
    if with_weight:
        integers = _outputs(packed)
    return QuantizedLinear(integers, BITS, scales.t().contiguous(), _outputs(qzeros))


def _outputs(words: torch.Tensor) -> torch.Tensor:
    """int32 (rows, out / 8) → int16 (out, rows)."""
    nibbles = unpack_words(words, BITS, words.shape[1] * 8, 1).view(len(words), -1, 8)
    place = torch.empty(8, dtype=torch.int64)
    place[list(OUTPUT_OF_NIBBLE)] = torch.arange(8)  # output → its half byte
    return nibbles[:, :, place].flatten(1).t().contiguous()
