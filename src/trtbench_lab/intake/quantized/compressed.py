"""compressed-tensors checkpoints (llm-compressor): INT4 and INT8 packed in words, INT8 and FP8 plain.

For a layer ``X`` of out × in::

    pack-quantized    X.weight_packed      int32 (out, in · b / 32)   integer + 2^(b − 1), along the input features
                      X.weight_scale       (out, groups)
                      X.weight_zero_point  int32 (out · b / 32, groups), packed alike along the outputs; or absent
                      X.weight_g_idx       int32 (in,); or absent
                      X.weight_shape       int64 (2,): out and in
    int-quantized     X.weight             int8 (out, in); X.weight_scale (out, 1) or (1,)
    float-quantized   X.weight             float8_e4m3fn (out, in); X.weight_scale (out, 1) or (1,)
    both              X.input_scale        (1,), where activations are static

    w[o, i] = weight_scale[o, group(i)] · (integer − weight_zero_point[o, group(i)])
"""

from __future__ import annotations

import torch

from ...checkpoint.source import TensorSource
from ...errors import IntakeError
from .linear import QuantizedLinear, check_shape, unpack_words, words_needed


def read_packed(source: TensorSource, name: str, *, bits: int, with_weight: bool = True) -> QuantizedLinear:
    """Read a pack-quantized layer; without its weight, that has a shape only (device ``meta``).

    Raises
    ------
    IntakeError
        When a tensor is missing or does not fit the others.
    """
    names = set(source.names())
    shape = source.tensor(f"{name}.weight_shape").tolist()
    packed, scales = source.tensor(f"{name}.weight_packed"), source.tensor(f"{name}.weight_scale")
    if len(shape) != 2:
        raise IntakeError("weight_shape must hold two sizes.", where=f"{name}.weight_shape", remedy="Fetch it again.")
    out_features, in_features = int(shape[0]), int(shape[1])
    check_shape(f"{name}.weight_packed", packed, (out_features, words_needed(in_features, bits)), torch.int32)
    scales = scales.view(out_features, -1)
    half = 1 << (bits - 1)
    integers = torch.empty(out_features, in_features, dtype=torch.int16, device="meta")
    if with_weight:
        integers = unpack_words(packed, bits, in_features, 1)
    order = source.tensor(f"{name}.weight_g_idx").to(torch.int64) if f"{name}.weight_g_idx" in names else None
    if f"{name}.weight_zero_point" not in names:
        return QuantizedLinear((integers - half).to(torch.int8), bits, scales, None, order)
    words = source.tensor(f"{name}.weight_zero_point")
    check_shape(f"{name}.weight_zero_point", words, (words_needed(out_features, bits), scales.shape[1]), torch.int32)
    return QuantizedLinear(integers, bits, scales, unpack_words(words, bits, out_features, 0), order)


def read_plain(source: TensorSource, name: str) -> QuantizedLinear:
    """Read an int-quantized or float-quantized layer."""
    names = set(source.names())
    weight, scale = source.tensor(f"{name}.weight"), source.tensor(f"{name}.weight_scale")
    if weight.dtype not in (torch.int8, torch.float8_e4m3fn):
        check_shape(f"{name}.weight", weight, tuple(weight.shape), torch.int8)
    if scale.numel() not in (1, weight.shape[0]):
        raise IntakeError(
            f"The scale has {scale.numel()} entries; one, or one for each of {weight.shape[0]} outputs, are read.",
            where=f"{name}.weight_scale",
            remedy="Quantize with a scale a tensor or a channel.",
        )
    scales = scale.reshape(-1, 1)
    if scales.shape[0] == 1:
        scales = scales.expand(weight.shape[0], 1).contiguous()
    static = f"{name}.input_scale"
    return QuantizedLinear(
        weight, 8, scales, input_scale=source.tensor(static).reshape(1).float() if static in names else None
    )
