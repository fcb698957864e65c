"""Rewrite the portable network into the form that ONNX Runtime runs fastest on a CPU; what it computes stays."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from ...errors import BuildError
from ...network.export import ExportedNetwork
from ...network.initializers import Initializer
from ...network.ops import TENSORRT_DOMAIN
from ...plugins.function_node import PLUGIN_DOMAIN
from .graph_edits import MICROSOFT_DOMAIN, remove_unused, replace_node
from .weight_only import lower_weight_only


def lower_for_onnxruntime(network: ExportedNetwork, *, int8_activations: bool) -> None:
    """Rewrite `network` in place: no node outside of ONNX's and ONNX Runtime's own domains is left.

    Parameters
    ----------
    network
        An exported network, not yet written.
    int8_activations
        Let weight-only layers round their inputs to 8 bits (see `lower_weight_only`).

    Notes
    -----
    Tried and left out, because a decode step of a 124M model took the same time to 2 %: residual additions joined with
    norms (SkipLayerNormalization), and a mask of numbers made once instead of one of booleans in each layer.
    """
    graph = network.model.graph
    for node in list(graph):
        handler = _HANDLERS.get((node.domain, node.op_type))
        if node.domain == PLUGIN_DOMAIN:
            lower_weight_only(node, network, int8_activations=int8_activations)
        elif handler is not None:
            handler(node, network)
    remove_unused(graph)
    network.model.functions.clear()
    network.model.opset_imports.pop(TENSORRT_DOMAIN, None)
    network.model.opset_imports.pop(PLUGIN_DOMAIN, None)
    network.model.opset_imports[MICROSOFT_DOMAIN] = 1


def _lower_cache_update(node: ir.Node, network: ExportedNetwork) -> None:
    _replace(node, "TensorScatter", list(node.inputs), {"axis": 2, "mode": "linear"})


def _lower_attention(node: ir.Node, network: ExportedNetwork) -> None:
    """Use the standard op, and let it scale the queries itself, which saves a pass over them."""
    query, *others = node.inputs
    multiply = _producer(query, "Mul")
    factor = _producer(multiply.inputs[1], "Constant")
    scale = float(factor.attributes["value"].as_tensor().numpy())
    _replace(node, "Attention", [multiply.inputs[0], *others], {"scale": scale})


def _store_transposed(node: ir.Node, network: ExportedNetwork) -> None:
    """Replace ``MatMul(x, Transpose(W))`` by ``MatMul(x, Wᵀ)`` with Wᵀ stored: W is read once a token, row by row."""
    transpose = None if node.inputs[1] is None else node.inputs[1].producer()
    if transpose is None or transpose.op_type != "Transpose":
        return
    weight = transpose.inputs[0]
    original = network.initializers[weight.name]
    name = f"{weight.name}:transposed"
    out_features, in_features = original.shape
    network.initializers[name] = Initializer(
        original.dtype, (in_features, out_features), lambda weights: original.read(weights).t().contiguous()
    )
    stored = ir.Value(name=name, shape=ir.Shape((in_features, out_features)), type=ir.TensorType(original.dtype))
    network.model.graph.initializers[name] = stored
    node.replace_input_with(1, stored)


def _producer(value: ir.Value | None, op_type: str) -> ir.Node:
    node = None if value is None else value.producer()
    if value is None or node is None or node.op_type != op_type:
        raise BuildError(
            f"{value.name if value else 'an absent input'} was expected to come from {op_type}.",
            where="backends/onnxruntime/lowering.py",
            remedy="The network was changed without its lowering: please report it.",
        )
    return node


def _replace(
    node: ir.Node, op_type: str, inputs: list[ir.Value | None], attributes: dict[str, int | float | str]
) -> None:
    """Put a standard node in the place of `node`."""
    replace_node(node, ir.node(op_type, inputs, attributes, name=node.name.replace(node.op_type, op_type)))


_HANDLERS: dict[tuple[str, str], Callable[[ir.Node, ExportedNetwork], None]] = {
    (TENSORRT_DOMAIN, "TRT_KVCacheUpdate"): _lower_cache_update,
    (TENSORRT_DOMAIN, "TRT_Attention"): _lower_attention,
    ("", "MatMul"): _store_transposed,
}
