"""ModelOpt's Hugging Face export: INT4 AWQ, W4A8 AWQ and FP8.

For a layer ``X`` of out × in::

    INT4 AWQ   X.weight         uint8 (out / 2, in): outputs 2 n (low half) and 2 n + 1 (high half), two's complement
               X.weight_scale   (out, groups)
               X.pre_quant_scale (in,)
    W4A8 AWQ   the same, and X.input_scale: one element
    FP8        X.weight         float8_e4m3fn (out, in); X.weight_scale, X.input_scale: one element
    K/V cache  of the attention: k_proj.k_scale, v_proj.v_scale, one element each
"""

from __future__ import annotations

import torch

from ...checkpoint.source import TensorSource
from .compressed import read_plain
from .linear import QuantizedLinear, check_shape


def read_modelopt(source: TensorSource, name: str) -> QuantizedLinear:
    """Read the layer `name`; raises `IntakeError` when a tensor is missing or does not fit the others."""
    weight = source.tensor(f"{name}.weight")
    if weight.dtype != torch.uint8:
        return read_plain(source, name)
    scales = source.tensor(f"{name}.weight_scale")
    half_rows, in_features = weight.shape
    check_shape(f"{name}.weight_scale", scales, (2 * half_rows, scales.shape[-1]))
    signed = weight.view(torch.int8)
    low, high = (signed << 4) >> 4, signed >> 4
    integers = torch.stack((low, high), 1).reshape(2 * half_rows, in_features)
    names = set(source.names())
    pre_scale, static = f"{name}.pre_quant_scale", f"{name}.input_scale"
    before = source.tensor(pre_scale) if pre_scale in names else None
    if before is not None:
        check_shape(pre_scale, before, (in_features,))
    step = source.tensor(static).reshape(1).float() if static in names else None
    return QuantizedLinear(integers, 4, scales, pre_scale=before, input_scale=step)
