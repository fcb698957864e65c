"""A node, in a network that is being exported, that calls an ONNX function by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

PLUGIN_DOMAIN = "trtbench"
"""Domain of the project's own ops."""


def function_node(
    name: str, inputs: Sequence[torch.Tensor], attributes: Mapping[str, int | str], like: torch.Tensor
) -> torch.Tensor:
    """Record a call of `name` (``"domain::Op"``) whose one result has the type and shape of `like`."""
    from torch.onnx import ops as onnx_ops

    return onnx_ops.symbolic(name, inputs, dict(attributes), dtype=like.dtype, shape=like.shape, version=1)
