"""Weight-only layers as ONNX Runtime's `MatMulNBits`, which multiplies without building the dense weight."""

from __future__ import annotations

import onnx_ir as ir
import torch

from ...network.export import ExportedNetwork
from ...network.initializers import Initializer, Weights, tensor_of
from .graph_edits import MICROSOFT_DOMAIN, replace_node

BLOCKS = (256, 128, 64, 32, 16)
"""Block lengths that the kernels take; the longer, the fewer scales and the faster the prompt."""
EXACT, INT8_ACTIVATIONS = 1, 4
"""`accuracy_level` of float32 and of int8 arithmetic."""


def lower_weight_only(node: ir.Node, network: ExportedNetwork, *, int8_activations: bool) -> None:
    """Put `MatMulNBits` in the place of a weight-only node.

    The checkpoint's bytes stay as they are but for the offset that makes signed integers unsigned; a scale a channel is
    repeated for each block (1.5 % more bytes at 8 bits, 3 % at 4).

    Parameters
    ----------
    node
        A node of the portable network.
    network
        The network it stands in, not yet written.
    int8_activations
        True: the kernel rounds each block of inputs to 8 bits and multiplies integers. On GPT-2 124M that takes a step
        from 4.7 to 1.8 ms with 4-bit weights; the logits then differ from the definition's by about as much as 8-bit
        weights differ from float ones (1-2 % of the range on random models). False: the definition, in float32.
    """
    module = node.inputs[1].name.removesuffix(".weight")
    linear = network.quantized[module]
    scheme, out_features, in_features = linear.scheme, linear.out_features, linear.in_features
    assert scheme is not None, f"{module} is not quantized"  # noqa: S101
    x = node.inputs[0]
    block = scheme.group_size or channel_block(in_features)
    blocks = -(-in_features // block)
    block_bytes = block * scheme.bits // 8
    flip = 0x80 if scheme.bits == 8 else 0x88

    def read_blocks(weights: Weights) -> torch.Tensor:
        stored = tensor_of(weights, f"{module}.weight", scheme.packed_shape(out_features, in_features))
        unsigned = stored.view(torch.uint8) ^ flip
        missing = blocks * block_bytes - unsigned.shape[1]
        if missing:
            unsigned = torch.nn.functional.pad(unsigned, (0, missing), value=flip)
        return unsigned.view(out_features, blocks, block_bytes)

    def read_scales(weights: Weights) -> torch.Tensor:
        scales = tensor_of(weights, f"{module}.{scheme.scale_name}", scheme.scale_shape(out_features, in_features))
        return scales.float().view(out_features, -1).expand(out_features, blocks).contiguous()

    names = (f"{module}.weight:blocks", f"{module}.{scheme.scale_name}:blocks")
    contents = (
        Initializer(ir.DataType.UINT8, (out_features, blocks, block_bytes), read_blocks),
        Initializer(ir.DataType.FLOAT, (out_features, blocks), read_scales),
    )
    values = []
    for name, content in zip(names, contents, strict=True):
        network.initializers[name] = content
        value = ir.Value(name=name, shape=ir.Shape(content.shape), type=ir.TensorType(content.dtype))
        network.model.graph.initializers[name] = value
        values.append(value)
    attributes = {
        "K": in_features,
        "N": out_features,
        "bits": scheme.bits,
        "block_size": block,
        "accuracy_level": INT8_ACTIVATIONS if int8_activations else EXACT,
    }
    name = f"{module}/MatMulNBits"
    replace_node(node, ir.node("MatMulNBits", [x, *values], attributes, domain=MICROSOFT_DOMAIN, name=name))


def channel_block(in_features: int) -> int:
    """Return the block length for a scale a channel: the longest of those that need the least padding."""
    return min(BLOCKS, key=lambda block: (-(-in_features // block) * block, -block))
