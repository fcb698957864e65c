"""A quantized layer's weight as the float32 values that it stands for, in columns."""

from __future__ import annotations

import onnx_ir as ir
import torch

from ...network.export import ExportedNetwork
from ...network.initializers import Initializer, Weights, tensor_of
from ...network.linear import Linear
from ...quantization.reference import dense_weight
from .graph_edits import add_initializer


def add_dense_columns(network: ExportedNetwork, module: str, linear: Linear) -> ir.Value:
    """Give the network the dense weight (in, out) of a quantized layer; it is made when the network is written."""
    kind = linear.kind
    assert kind is not None, f"{module} is not quantized"  # noqa: S101
    stored = kind.tensors(linear.out_features, linear.in_features)

    def read(weights: Weights) -> torch.Tensor:
        tensors = {tensor.suffix: tensor_of(weights, f"{module}.{tensor.suffix}", tensor.shape) for tensor in stored}
        return dense_weight(tensors, kind.algo).t().contiguous()

    columns = Initializer(ir.DataType.FLOAT, (linear.in_features, linear.out_features), read)
    return add_initializer(network, f"{module}.weight:dense", columns)
