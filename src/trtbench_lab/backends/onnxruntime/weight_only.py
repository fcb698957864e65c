"""Weight-only layers for ONNX Runtime: packed weights in `MatMulNBits`, or dense ones where only those are exact."""

from __future__ import annotations

import onnx_ir as ir
import torch

from ...network.export import ExportedNetwork
from ...network.initializers import Initializer, Weights, tensor_of
from ...network.linear import Linear
from ...quantization.weight_only import WeightOnlyScheme, dequantize
from .graph_edits import MICROSOFT_DOMAIN, replace_node

BLOCKS = (256, 128, 64, 32, 16)
"""Block lengths that the kernels take; the longer, the fewer scales and the faster the prompt."""
EXACT, INT8_ACTIVATIONS = 1, 4
"""`accuracy_level` of float32 and of int8 arithmetic."""


def lower_weight_only(node: ir.Node, network: ExportedNetwork, *, int8_activations: bool) -> None:
    """Replace a weight-only node of the portable network.

    Parameters
    ----------
    node
        The node.
    network
        The network it stands in, not yet written.
    int8_activations
        True: `MatMulNBits` rounds each block of inputs to 8 bits and multiplies integers. The logits then differ from
        the definition's by about as much as 8-bit weights differ from float ones (1-2 % of the range on random
        models).

        False: the definition, in float32. 4-bit weights stay packed (a step of GPT-2 124M takes 4.7 ms instead of
        1.8 ms). 8-bit weights are stored dense: the kernel would rebuild the whole dense weight at every step
        (0.3 s a step instead of 15 ms).
    """
    module = _input_name(node, 1).removesuffix(".weight")
    linear = network.quantized[module]
    scheme = linear.scheme
    assert scheme is not None, f"{module} is not quantized"  # noqa: S101
    if int8_activations or scheme.bits == 4:
        _use_packed(node, network, module, linear, scheme, INT8_ACTIVATIONS if int8_activations else EXACT)
    else:
        _use_dense(node, network, module, linear, scheme)


def _use_packed(
    node: ir.Node, network: ExportedNetwork, module: str, linear: Linear, scheme: WeightOnlyScheme, accuracy_level: int
) -> None:
    """The checkpoint's bytes stay as they are but for the offset that makes signed integers unsigned; a scale a channel
    is repeated for each block (1.5 % more bytes at 8 bits, 3 % at 4).
    """
    out_features, in_features = linear.out_features, linear.in_features
    block = scheme.group_size or channel_block(in_features)
    blocks = -(-in_features // block)
    block_bytes = block * scheme.bits // 8
    offset = 0x80 if scheme.bits == 8 else 0x88  # adds half the range to each integer

    def read_blocks(weights: Weights) -> torch.Tensor:
        stored = tensor_of(weights, f"{module}.weight", scheme.packed_shape(out_features, in_features))
        unsigned = stored.view(torch.uint8) ^ offset
        missing = blocks * block_bytes - unsigned.shape[1]
        if missing:
            unsigned = torch.nn.functional.pad(unsigned, (0, missing), value=offset)
        return unsigned.view(out_features, blocks, block_bytes)

    def read_scales(weights: Weights) -> torch.Tensor:
        scales = tensor_of(weights, f"{module}.{scheme.scale_name}", scheme.scale_shape(out_features, in_features))
        return scales.float().view(out_features, -1).expand(out_features, blocks).contiguous()

    packed = Initializer(ir.DataType.UINT8, (out_features, blocks, block_bytes), read_blocks)
    scales = Initializer(ir.DataType.FLOAT, (out_features, blocks), read_scales)
    inputs = [
        node.inputs[0],
        _add(network, f"{module}.weight:blocks", packed),
        _add(network, f"{module}.{scheme.scale_name}:blocks", scales),
    ]
    attributes = {
        "K": in_features,
        "N": out_features,
        "bits": scheme.bits,
        "block_size": block,
        "accuracy_level": accuracy_level,
    }
    name = f"{module}/MatMulNBits"
    replace_node(node, ir.node("MatMulNBits", inputs, attributes, domain=MICROSOFT_DOMAIN, name=name))


def _use_dense(node: ir.Node, network: ExportedNetwork, module: str, linear: Linear, scheme: WeightOnlyScheme) -> None:
    out_features, in_features = linear.out_features, linear.in_features

    def read(weights: Weights) -> torch.Tensor:
        stored = tensor_of(weights, f"{module}.weight", scheme.packed_shape(out_features, in_features))
        scales = tensor_of(weights, f"{module}.{scheme.scale_name}", scheme.scale_shape(out_features, in_features))
        return dequantize(stored, scales, scheme, dtype=torch.float32).t().contiguous()

    dense = _add(network, f"{module}.weight:dense", Initializer(ir.DataType.FLOAT, (in_features, out_features), read))
    replace_node(node, ir.node("MatMul", [node.inputs[0], dense], name=f"{module}/MatMul"))


def _add(network: ExportedNetwork, name: str, content: Initializer) -> ir.Value:
    value = ir.Value(name=name, shape=ir.Shape(content.shape), type=ir.TensorType(content.dtype))
    network.initializers[name] = content
    network.model.graph.initializers[name] = value
    return value


def _input_name(node: ir.Node, position: int) -> str:
    value = node.inputs[position]
    return "" if value is None or value.name is None else value.name


def channel_block(in_features: int) -> int:
    """Return the block length for a scale a channel: the longest of those that need the least padding."""
    return min(BLOCKS, key=lambda block: (-(-in_features // block) * block, -block))
