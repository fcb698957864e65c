"""Small edits of an ONNX graph that keep its names and outputs."""

from __future__ import annotations

import onnx_ir as ir

from ...network.export import ExportedNetwork
from ...network.initializers import Initializer

MICROSOFT_DOMAIN = "com.microsoft"


def replace_node(node: ir.Node, replacement: ir.Node) -> None:
    """Put `replacement` (of one output) in the place of `node`, whose output's name and uses it takes over."""
    graph = _graph_of(node)
    graph.insert_before(node, replacement)
    take_over(node.outputs[0], replacement.outputs[0], graph)
    graph.remove(node, safe=True)


def take_over(old: ir.Value, new: ir.Value, graph: ir.Graph) -> None:
    """Let `new` stand wherever `old` stood, the graph's outputs included, under its name."""
    new.name, new.shape, new.type = old.name, old.shape, old.type
    for position, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[position] = new
    old.replace_all_uses_with(new)


def add_initializer(network: ExportedNetwork, name: str, content: Initializer) -> ir.Value:
    """Give the network one more initializer."""
    value = ir.Value(name=name, shape=ir.Shape(content.shape), type=ir.TensorType(content.dtype))
    network.initializers[name] = content
    network.model.graph.initializers[name] = value
    return value


def insert_before(node: ir.Node, new: ir.Node) -> ir.Value:
    """Put `new` (of one output, named after it) before `node` and return its output."""
    new.outputs[0].name = f"{new.name}:0"
    _graph_of(node).insert_before(node, new)
    return new.outputs[0]


def remove_unused(graph: ir.Graph) -> None:
    """Remove nodes and initializers that nothing reads."""
    for node in reversed(list(graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            graph.initializers.pop(name)


def _graph_of(node: ir.Node) -> ir.Graph:
    graph = node.graph
    if not isinstance(graph, ir.Graph):
        raise TypeError(f"{node.name} stands in no graph")
    return graph
