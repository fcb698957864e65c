"""Products of inputs that are rounded to 8 bits: INT8 × INT8 (SmoothQuant), FP8 × FP8; and rounding alone (W4A8).

Each is its definition eagerly, and one node with a function of Q/DQ pairs in an exported network.
"""

from __future__ import annotations

import torch

from ..quantization.fp8 import fp8_product, through_fp8
from ..quantization.smoothquant import integer_product
from .function_node import PLUGIN_DOMAIN, function_node


def int8_matmul(
    x: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, step: torch.Tensor | None
) -> torch.Tensor:
    """Multiply integers, summed in int32: see `quantization.smoothquant.integer_product`."""
    if torch.compiler.is_exporting():
        return _node("Int8", x, weight, weight_scale, step)
    return integer_product(x, weight, weight_scale, step)


def fp8_matmul(
    x: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, step: torch.Tensor | None
) -> torch.Tensor:
    """Multiply E4M3 numbers, summed in float32: see `quantization.fp8.fp8_product`."""
    if torch.compiler.is_exporting():
        return _node("Fp8", x, weight, weight_scale, step)
    return fp8_product(x, weight, weight_scale, step)


def fp8_rounded(x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """Pass inputs through E4M3: see `quantization.fp8.through_fp8`."""
    if torch.compiler.is_exporting():
        return function_node(f"{PLUGIN_DOMAIN}::Fp8Round", [x, step], {}, x)
    return through_fp8(x, step)


def _node(
    word: str, x: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, step: torch.Tensor | None
) -> torch.Tensor:
    like = x.new_empty((*x.shape[:-1], weight.shape[0]))
    if step is None:
        return function_node(f"{PLUGIN_DOMAIN}::{word}TokenMatMul", [x, weight, weight_scale], {}, like)
    return function_node(f"{PLUGIN_DOMAIN}::{word}StaticMatMul", [x, weight, weight_scale, step], {}, like)
