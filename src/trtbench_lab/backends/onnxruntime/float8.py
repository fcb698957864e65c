"""FP8 emulated: ONNX Runtime's CPU kernels multiply no FP8, so rounded numbers are multiplied in float32.

Inputs pass through E4M3 (a pair of QuantizeLinear and DequantizeLinear); weights are stored as the float32 values of
their E4M3 numbers times their scale. The numbers are those of FP8 layers, speed and memory are those of float32.
"""

from __future__ import annotations

import onnx_ir as ir
import torch

from ...network.export import ExportedNetwork
from ...network.initializers import constant
from ...network.linear import Linear
from ...network.node_names import ROOT, module_of_node
from ...quantization.fp8 import LARGEST
from .dense import add_dense_columns
from .graph_edits import add_initializer, insert_before, replace_node

STEP = 3
"""Position of the inputs' static step among a product's inputs."""


def use_rounded_floats(node: ir.Node, network: ExportedNetwork, module: str, linear: Linear) -> None:
    """Replace an FP8 product by rounding of its inputs and a float32 product."""
    dense = add_dense_columns(network, module, linear)

    def add(op: str, inputs: list[ir.Value | None], attributes: dict[str, int] | None = None) -> ir.Value:
        return insert_before(node, ir.node(op, inputs, attributes or {}, name=f"{module}/{op}"))

    x = node.inputs[0]
    if len(node.inputs) > STEP:
        rounded = _rounded(node, x, node.inputs[STEP], module)
        replace_node(node, ir.node("MatMul", [rounded, dense], name=f"{module}/MatMul"))
        return
    shared = network.model.graph.initializers
    for name, value in (("float8:last_axis", torch.tensor([-1])), ("float8:step", torch.tensor(1 / LARGEST))):
        if name not in shared:
            add_initializer(network, name, constant(value))
    # A row of zeros would give 0 / 0, and E4M3 keeps NaN.
    if "float8:least" not in shared:
        add_initializer(network, "float8:least", constant(torch.tensor(torch.finfo(torch.float32).tiny)))
    largest = add("ReduceMax", [add("Abs", [x]), shared["float8:last_axis"]], {"keepdims": 1})
    largest = add("Max", [largest, shared["float8:least"]])
    rounded = _rounded(node, add("Div", [x, largest]), shared["float8:step"], module)
    product = add("MatMul", [rounded, dense])
    replace_node(node, ir.node("Mul", [product, largest], name=f"{module}/Mul"))


def use_rounding(node: ir.Node) -> None:
    """Replace a node that only rounds its input (W4A8)."""
    module = module_of_node(node.name or "") or ROOT
    rounded = _rounded(node, node.inputs[0], node.inputs[1], module)
    replace_node(node, ir.node("Identity", [rounded], name=f"{module}/Identity"))


def _rounded(node: ir.Node, x: ir.Value | None, step: ir.Value | None, scope: str) -> ir.Value:
    attributes = {"output_dtype": int(ir.DataType.FLOAT8E4M3FN)}
    number = insert_before(node, ir.node("QuantizeLinear", [x, step], attributes, name=f"{scope}/QuantizeLinear"))
    return insert_before(node, ir.node("DequantizeLinear", [number, step], name=f"{scope}/DequantizeLinear"))
