"""Weight-only layers for ONNX Runtime: packed in `MatMulNBits`, integers in `MatMulIntegerToFloat`, or dense."""

from __future__ import annotations

from enum import Enum

import onnx_ir as ir
import torch

from ...errors import BuildError
from ...network.export import ExportedNetwork
from ...network.initializers import Initializer, Weights, tensor_of
from ...network.linear import Linear
from ...quantization.weight_only import WeightOnlyScheme, integer_zero_points
from .dense import add_dense_columns
from .graph_edits import MICROSOFT_DOMAIN, add_initializer, replace_node
from .integer_product import use_integers

BLOCKS = (256, 128, 64, 32, 16)
"""Block lengths that the kernels take; the longer, the fewer scales and the faster the prompt."""
EXACT, INT8_ACTIVATIONS = 1, 4
"""`accuracy_level` of float32 and of int8 arithmetic."""


class Products(Enum):
    """What weight-only layers of a network are computed for.

    EXACT
        The definition, in float32. 4-bit weights stay packed (a step of GPT-2 124M takes 4.7 ms instead of 1.8 ms).
        8-bit weights are stored dense: the kernel would rebuild the whole dense weight at every step (0.3 s a step
        instead of 15 ms).
    FEW_TOKENS
        Integer products, quickest for a decode step. The logits then differ from the definition's by about as much as
        8-bit weights differ from float ones (1-2 % of the range on random models).
    DECODE_ONLY
        The same, where another network takes prompts: 8-bit weights a channel are packed too. A prompt takes twice as
        long by such products, a decode step 8-13 % less (GPT-2 124M on two cores).
    MANY_TOKENS
        Integer products, quickest for a prompt. A scale a channel only; groups are as with FEW_TOKENS.
    """

    EXACT = "exact"
    FEW_TOKENS = "few tokens"
    DECODE_ONLY = "decode only"
    MANY_TOKENS = "many tokens"


def lower_weight_only(node: ir.Node, network: ExportedNetwork, module: str, linear: Linear, products: Products) -> None:
    """Replace the `node` of a layer with dequantized weights by what ONNX Runtime has for it.

    The portable `network` is not yet written. Inputs that pass through FP8 are not rounded once more: W4A8 is exact.
    """
    kind, scheme = linear.kind, linear.scheme
    assert kind is not None, f"{module} is not quantized"  # noqa: S101
    assert scheme is not None, f"{module} multiplies integers"  # noqa: S101
    exact = products is Products.EXACT or kind.rounds_inputs_to_fp8
    per_channel = scheme.group_size is None
    if exact and scheme.bits == 8:
        _use_dense(node, network, module, linear)
    elif exact:
        _use_packed(node, network, module, linear, scheme, EXACT)
    elif per_channel and (
        products is Products.MANY_TOKENS or (scheme.bits == 8 and products is not Products.DECODE_ONLY)
    ):
        use_integers(node, network, module, linear)
    else:
        _use_packed(node, network, module, linear, scheme, INT8_ACTIVATIONS)


def _use_packed(
    node: ir.Node, network: ExportedNetwork, module: str, linear: Linear, scheme: WeightOnlyScheme, accuracy_level: int
) -> None:
    """The checkpoint's bytes stay as they are but for the offset that makes signed integers unsigned; a scale a channel
    is repeated for each block (1.5 % more bytes at 8 bits, 3 % at 4). Zero points get the same offset.
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
        add_initializer(network, f"{module}.weight:blocks", packed),
        add_initializer(network, f"{module}.{scheme.scale_name}:blocks", scales),
    ]
    if linear.kind is not None and linear.kind.quant.has_zero_point:
        inputs.append(add_initializer(network, f"{module}.zero:blocks", _zero_points(module, linear, scheme)))
    attributes = {
        "K": in_features,
        "N": out_features,
        "bits": scheme.bits,
        "block_size": block,
        "accuracy_level": accuracy_level,
    }
    name = f"{module}/MatMulNBits"
    replace_node(node, ir.node("MatMulNBits", inputs, attributes, domain=MICROSOFT_DOMAIN, name=name))


def _zero_points(module: str, linear: Linear, scheme: WeightOnlyScheme) -> Initializer:
    """Zero points as `MatMulNBits` takes them: unsigned, each row's packed as the weights are."""
    shape = scheme.scale_shape(linear.out_features, linear.in_features)
    half = 1 << (scheme.bits - 1)

    def read(weights: Weights) -> torch.Tensor:
        scales = tensor_of(weights, f"{module}.{scheme.scale_name}", shape)
        points = integer_zero_points(tensor_of(weights, f"{module}.zero", shape), scales) + half
        if bool((points < 0).any()) or bool((points >= 2 * half).any()):
            raise BuildError(
                f"A zero point of this layer lies outside of the {scheme.bits} bits that ONNX Runtime's kernel has.",
                where=f"{module}.zero",
                remedy="Use the torch backend, or quantize the model again.",
            )
        unsigned = points.to(torch.uint8)
        if scheme.bits == 8:
            return unsigned
        if unsigned.shape[1] % 2:
            unsigned = torch.nn.functional.pad(unsigned, (0, 1))
        return unsigned[:, 0::2] | (unsigned[:, 1::2] << 4)

    columns = shape[1] if scheme.bits == 8 else -(-shape[1] // 2)
    return Initializer(ir.DataType.UINT8, (linear.out_features, columns), read)


def _use_dense(node: ir.Node, network: ExportedNetwork, module: str, linear: Linear) -> None:
    dense = add_dense_columns(network, module, linear)
    replace_node(node, ir.node("MatMul", [node.inputs[0], dense], name=f"{module}/MatMul"))


def channel_block(in_features: int) -> int:
    """Return the block length for a scale a channel: the longest of those that need the least padding."""
    return min(BLOCKS, key=lambda block: (-(-in_features // block) * block, -block))
