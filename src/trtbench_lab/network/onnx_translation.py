"""What each op of the vocabulary becomes in ONNX: the table that `torch.onnx.export` translates by.

Written by hand because the general translation of slices, views and splits carries shape arithmetic along: 110 nodes
a layer where these make 20.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript.onnx_opset import opset24 as op

OPSET = 24


def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    y = op.MatMul(x, op.Transpose(weight, perm=[1, 0]))
    return y if bias is None else op.Add(y, bias)


def _split(x: Any, sizes: Sequence[int], dim: int) -> Any:
    return op.Split(x, op.Constant(value_ints=list(sizes)), axis=dim, num_outputs=len(sizes))


def _split_heads(x: Any, num_heads: int) -> Any:
    return op.Transpose(op.Reshape(x, op.Constant(value_ints=[0, 0, num_heads, -1])), perm=[0, 2, 1, 3])


def _merge_heads(x: Any) -> Any:
    return op.Reshape(op.Transpose(x, perm=[0, 2, 1, 3]), op.Constant(value_ints=[0, 0, -1]))


def _select_tokens(x: Any, indices: Any) -> Any:
    return op.GatherND(x, op.Unsqueeze(indices, op.Constant(value_ints=[2])), batch_dims=1)


def _count_from_zero(x: Any, dim: int) -> Any:
    size = op.Squeeze(op.Shape(x, start=dim, end=dim + 1))
    return op.Range(op.Constant(value_int=0), size, op.Constant(value_int=1))


def _token_positions(tokens: Any, write_indices: Any) -> Any:
    return op.Add(op.Unsqueeze(write_indices, op.Constant(value_ints=[1])), _count_from_zero(tokens, 1))


def _visible_keys(positions: Any, past_key: Any, window: int | None = None) -> Any:
    slots = _count_from_zero(past_key, 2)  # (S,)
    last = op.Unsqueeze(positions, op.Constant(value_ints=[1, 3]))  # (B, 1, T, 1)
    mask = op.LessOrEqual(slots, last)
    if window is None:
        return mask
    return op.And(mask, op.Greater(slots, op.Sub(last, op.Constant(value_int=window))))


def _rotary_embedding(x: Any, cos: Any, sin: Any, interleaved: bool) -> Any:
    # Without position ids the tables are per token already; they are gathered once a step, not once a layer.
    return op.RotaryEmbedding(x, cos, sin, interleaved=int(interleaved), rotary_embedding_dim=2 * cos.shape[-1])


def _rms_norm(x: Any, weight: Any, epsilon: float) -> Any:
    return op.RMSNormalization(x, weight, axis=-1, epsilon=epsilon)


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return torch op → function that writes its ONNX nodes."""
    ops = torch.ops.trtbench
    return {
        ops.linear.default: _linear,
        ops.split.default: _split,
        ops.split_heads.default: _split_heads,
        ops.merge_heads.default: _merge_heads,
        ops.select_tokens.default: _select_tokens,
        ops.token_positions.default: _token_positions,
        ops.visible_keys.default: _visible_keys,
        ops.rotary_embedding.default: _rotary_embedding,
        ops.rms_norm.default: _rms_norm,
    }
