"""GPTQ checkpoints as AutoGPTQ and GPTQModel write them.

For a layer ``X`` of out × in, bits b and groups g::

    X.qweight  int32 (in · b / 32, out)        integers 0 … 2^b − 1 along the input features
    X.qzeros   int32 (groups, out · b / 32)    zero points along the outputs; the first format stores them less 1
    X.scales   float16 (groups, out)
    X.g_idx    int32 (in,)                     group of each input feature; with act-order not in order

    w[o, i] = scales[g_idx[i], o] · (q[i, o] − zero[g_idx[i], o])
"""

from __future__ import annotations

import torch

from ...checkpoint.source import TensorSource
from ...errors import IntakeError
from .linear import QuantizedLinear, check_shape, unpack_words, words_needed

BITS = (2, 3, 4, 5, 6, 7, 8)


def read_gptq(
    source: TensorSource, name: str, *, bits: int, zeros_less_one: bool, with_weight: bool = True
) -> QuantizedLinear:
    """Read the layer `name`.

    Parameters
    ----------
    source
        The model's tensors.
    name
        The layer, without a suffix.
    bits
        Of quantization_config.
    zeros_less_one
        Whether zero points are stored less 1 (checkpoint_format "gptq"; "gptq_v2" stores them as they are).
    with_weight
        Unpack the integers; without, the layer's weight has a shape only (device ``meta``).

    Raises
    ------
    IntakeError
        When a tensor is missing or does not fit the others.
    """
    if bits not in BITS:
        raise IntakeError(
            f"GPTQ weights of {bits} bits are not known.", where=name, remedy=f"Known: {', '.join(map(str, BITS))}."
        )
    packed, scales = source.tensor(f"{name}.qweight"), source.tensor(f"{name}.scales")
    groups, out_features = scales.shape
    in_features = packed.shape[0] * 32 // bits
    names = set(source.names())
    order = source.tensor(f"{name}.g_idx").to(torch.int64) if f"{name}.g_idx" in names else None
    if order is not None:
        in_features = len(order)
        if bool((order < 0).any()) or bool((order >= groups).any()):
            raise IntakeError(
                f"g_idx names groups beyond the {groups} that have scales.", where=f"{name}.g_idx",
                remedy="The file is damaged: fetch the model again.",
            )  # fmt: skip
    check_shape(f"{name}.qweight", packed, (words_needed(in_features, bits), out_features), torch.int32)
    qzeros = source.tensor(f"{name}.qzeros")
    check_shape(f"{name}.qzeros", qzeros, (groups, words_needed(out_features, bits)), torch.int32)
    integers = torch.empty(out_features, in_features, dtype=torch.int16, device="meta")
    if with_weight:
        integers = unpack_words(packed, bits, in_features, 0).t().contiguous()  # (out, in)
    zeros = unpack_words(qzeros, bits, out_features, 1).t().contiguous()  # (out, groups)
    if zeros_less_one:
        zeros = zeros + 1
    return QuantizedLinear(integers, bits, scales.t().contiguous(), zeros, order)
