"""A quantized weight into a dense scratch, before the vendor's product: for prompts, whose arithmetic hides it."""

from __future__ import annotations

import torch

from ..frame.triton_form import kernel_module
from .weights import KIND_CODES, LinearWeights

ROWS, COLUMNS = 8, 1024
"""Extents of the block that a program makes."""


def dequantize_into(weights: LinearWeights, dense: torch.Tensor) -> torch.Tensor:
    """Write ``(q − zero) · scale`` to `dense` (N, K), in its type, and return it."""
    kernel = kernel_module("trtbench_lab.plugins.matmul.kernels.dequantize").dequantize_kernel
    stored = weights.weight.view(torch.int32) if weights.kind == "int4" else weights.weight
    cells = stored.shape[1]
    columns = COLUMNS // 8 if weights.kind == "int4" else COLUMNS
    grid = (-(-weights.out_features // ROWS), -(-cells // columns))
    arguments = [stored, weights.scale, weights.zero, dense]
    constants = {
        "N": weights.out_features,
        "K": weights.in_features,
        "KIND": KIND_CODES[weights.kind],
        "GROUP": weights.group_size or 0,
        "NIBBLES": weights.nibbles,
        "BLOCK_N": ROWS,
        "BLOCK_C": columns,
    }
    if dense.is_cuda:
        kernel[grid](*arguments, **constants, num_warps=4)
    else:
        from ..frame.interpreter import interpret

        interpret(kernel, grid, arguments, constants)
    return dense
