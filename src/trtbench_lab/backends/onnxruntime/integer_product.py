"""Products of 8-bit integers: activations rounded token by token, weights one integer an element and a scale a channel.

For a row x of the input, with a = max|x|::

    y = a/127 · scale ∘ (round(127 x / a) @ W)          accumulated in int32

Rows do not see each other: a sequence gets the same numbers alone and in a batch, as ONNX Runtime's
`DynamicQuantizeMatMul`, with one scale for all rows, would not give them. Against `MatMulNBits` with 8-bit weights a
prompt takes half the time on AVX2 (64 × 768 by 3072: 2.3 ms instead of 4.7 ms on one core) and a single token as long.
"""

from __future__ import annotations

import onnx_ir as ir
import torch

from ...network.export import ExportedNetwork
from ...network.initializers import Initializer, Weights, constant, tensor_of
from ...network.linear import Linear
from ...quantization.weight_only import WeightOnlyScheme, unpack_int4
from .graph_edits import MICROSOFT_DOMAIN, add_initializer, insert_before, replace_node

ZERO = 0x80
"""Stands for 0 in unsigned bytes. Activations are such, and 8-bit weights too: AVX2 adds pairs of products of unsigned
and signed bytes in 16 bits, which 255 · 127 twice would overflow. 4-bit weights (255 · 8 twice) stay signed, and take
three quarters of the time."""
STEPS = 127


def use_integers(
    node: ir.Node, network: ExportedNetwork, module: str, linear: Linear, scheme: WeightOnlyScheme
) -> None:
    """Replace a weight-only `node` with one scale a channel by a product of 8-bit integers.

    4-bit weights are stored one a byte here, with the same integers and scales.
    """
    out_features, in_features = linear.out_features, linear.in_features
    signed = scheme.bits == 4

    def read_columns(weights: Weights) -> torch.Tensor:
        stored = tensor_of(weights, f"{module}.weight", scheme.packed_shape(out_features, in_features))
        integers = unpack_int4(stored) if signed else stored.view(torch.uint8) ^ ZERO
        return integers.t().contiguous()

    def read_scales(weights: Weights) -> torch.Tensor:
        return tensor_of(
            weights, f"{module}.{scheme.scale_name}", scheme.scale_shape(out_features, in_features)
        ).float()

    def shared(name: str, value: torch.Tensor) -> ir.Value:
        known = network.model.graph.initializers.get(name)
        return known if known is not None else add_initializer(network, name, constant(value))

    weight_type = ir.DataType.INT8 if signed else ir.DataType.UINT8
    columns = Initializer(weight_type, (in_features, out_features), read_columns)
    scales = Initializer(ir.DataType.FLOAT, (out_features,), read_scales)
    weight = add_initializer(network, f"{module}.weight:columns", columns)
    scale = add_initializer(network, f"{module}.{scheme.scale_name}:float", scales)
    step = shared("integer_product:step", torch.tensor(1 / STEPS))
    zero = shared("integer_product:zero", torch.tensor(ZERO, dtype=torch.uint8))
    weight_zero = torch.tensor(0, dtype=torch.int8) if signed else torch.tensor(ZERO, dtype=torch.uint8)
    zeros = shared(f"integer_product:zeros_{out_features}_{weight_type.name}", weight_zero.repeat(out_features))
    last = shared("integer_product:last_axis", torch.tensor([-1]))

    def add(op: str, inputs: list[ir.Value | None], attributes: dict[str, int] | None = None) -> ir.Value:
        domain = MICROSOFT_DOMAIN if op == "MatMulIntegerToFloat" else ""
        return insert_before(node, ir.node(op, inputs, attributes or {}, domain=domain, name=f"{module}/{op}"))

    x = node.inputs[0]
    # A row of zeros gives 0 / 0 here; any integers will do for it, since its product is multiplied by 0 again.
    largest = add("ReduceMax", [add("Abs", [x]), last], {"keepdims": 1})
    integers = add("QuantizeLinear", [add("Div", [x, largest]), step, zero])
    product = add("MatMulIntegerToFloat", [integers, weight, step, scale, zero, zeros])
    replace_node(node, ir.node("Mul", [product, largest], name=f"{module}/Mul"))
