"""Rewrite the portable network into the form that ONNX Runtime runs fastest on a CPU; what it computes stays."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from ...errors import BuildError
from ...network.export import ExportedNetwork
from ...network.initializers import Initializer
from ...network.ops import TENSORRT_DOMAIN
from ...plugins.function_node import PLUGIN_DOMAIN
from .weight_only import lower_weight_only


def lower_for_onnxruntime(network: ExportedNetwork, *, int8_activations: bool) -> None:
    """Rewrite `network` in place: no node outside of ONNX's and ONNX Runtime's own domains is left.

    Parameters
    ----------
    network
        An exported network, not yet written.
    int8_activations
        Let weight-only layers round their inputs to 8 bits a block, which is what makes them fast (see
        `lower_weight_only`).
    """
    model = network.model
    handlers: dict[tuple[str, str], Callable[[ir.Node], None]] = {
        (TENSORRT_DOMAIN, "TRT_KVCacheUpdate"): _lower_cache_update,
        (TENSORRT_DOMAIN, "TRT_Attention"): _lower_attention,
        ("", "MatMul"): lambda node: _store_transposed(node, network),
    }
    for node in list(model.graph):
        if node.domain == PLUGIN_DOMAIN:
            lower_weight_only(node, network, int8_activations=int8_activations)
        elif handler := handlers.get((node.domain, node.op_type)):
            handler(node)
    _remove_dead_nodes(model.graph)
    model.functions.clear()
    for domain in (TENSORRT_DOMAIN, PLUGIN_DOMAIN):
        model.opset_imports.pop(domain, None)
    for name, value in list(model.graph.initializers.items()):
        if not value.uses():
            model.graph.initializers.pop(name)


def _lower_cache_update(node: ir.Node) -> None:
    _replace(node, "TensorScatter", list(node.inputs), {"axis": 2, "mode": "linear"})


def _lower_attention(node: ir.Node) -> None:
    """Use the standard op, and let it scale the queries itself where they are scaled just before."""
    query, *others = node.inputs
    scale = 1.0
    # The query comes through Mul → Reshape → Transpose; without the Mul one pass over it is saved.
    reshape = _producer(_producer(query, "Transpose").inputs[0], "Reshape")
    multiply = reshape.inputs[0].producer()
    if multiply is not None and multiply.op_type == "Mul":
        factor = multiply.inputs[1].producer()
        if factor is not None and factor.op_type == "Constant":
            scale = float(factor.attributes["value"].as_tensor().numpy())
            reshape.replace_input_with(0, multiply.inputs[0])
    _replace(node, "Attention", [query, *others], {"scale": scale})


def _store_transposed(node: ir.Node, network: ExportedNetwork) -> None:
    """Replace ``MatMul(x, Transpose(W))`` by ``MatMul(x, Wᵀ)`` with Wᵀ stored: W is read once a token, row by row."""
    transpose = node.inputs[1].producer()
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


def _producer(value: ir.Value, op_type: str) -> ir.Node:
    node = value.producer()
    if node is None or node.op_type != op_type:
        raise BuildError(
            f"{value.name} was expected to come from {op_type}.",
            where="backends/onnxruntime/lowering.py",
            remedy="The network was changed without its lowering: please report it.",
        )
    return node


def _replace(node: ir.Node, op_type: str, inputs: list[ir.Value], attributes: dict[str, int | float | str]) -> None:
    """Put a standard node in the place of `node`, with the same outputs."""
    name = node.name.replace(node.op_type, op_type)
    replace_node(node, ir.node(op_type, inputs, attributes, name=name))


def replace_node(node: ir.Node, replacement: ir.Node) -> None:
    """Put `replacement` (of one output) in the place of `node`, whose output's name and uses it takes over."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)  # noqa: S101
    old, new = node.outputs[0], replacement.outputs[0]
    new.name, new.shape, new.type = old.name, old.shape, old.type
    for position, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[position] = new
    graph.insert_before(node, replacement)
    old.replace_all_uses_with(new)
    graph.remove(node, safe=True)


def _remove_dead_nodes(graph: ir.Graph) -> None:
    for node in reversed(list(graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
