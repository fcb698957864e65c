"""Repeat the second layer of a network traced with two, so that export time does not grow with depth."""

from __future__ import annotations

import ast

import onnx_ir as ir
from torch import nn

from ..errors import BuildError
from .decoder import Decoder
from .linear import Linear

_PREFIX = "transformer.layers."


def layers_are_alike(decoder: Decoder) -> bool:
    """Whether all layers have parameters of the same names, shapes and types, and linear layers of the same kinds."""

    def traits(layer: nn.Module) -> list[object]:
        parameters = [(name, tuple(tensor.shape), tensor.dtype) for name, tensor in layer.named_parameters()]
        return [*parameters, *(module.kind for module in layer.modules() if isinstance(module, Linear))]

    first, *others = [traits(layer) for layer in decoder.transformer.layers]
    return all(other == first for other in others)


def unroll_layers(graph: ir.Graph, num_layers: int) -> None:
    """Extend a graph of two layers to `num_layers` by repeating layer 1, in place.

    New initializers, cache inputs and cache outputs are made for each repetition, in the order that a full trace has.

    Raises
    ------
    BuildError
        When the layers are no chain: what leaves the last is not what the next would read.
    """
    layer = [node for node in graph if _layer_of(node) == 1]
    links = _links([node for node in graph if _layer_of(node) == 0], layer)
    leaving = _leaving(graph, layer)
    if not links or leaving - {after for _, after in links}:
        raise BuildError(
            f"Layers are connected by {len(links)} tensors that repeat, and {len(leaving)} leave the last.",
            where="network/unroll.py",
            remedy="Export with repeat_layers=False.",
        )
    presents = [value for node in layer for value in node.outputs if value.is_graph_output() and value not in leaving]
    pasts = list(graph.inputs)[-len(presents) :]
    tail_uses = [(use, after) for _, after in links for use in after.uses() if _layer_of(use.node) != 1]

    last_node, states = layer[-1], dict(links)
    for number in range(2, num_layers):
        copies: dict[ir.Value, ir.Value] = dict(states)
        for past in pasts:
            copies[past] = ir.Value(name=f"{past.name}_{number}", shape=past.shape, type=past.type)
            graph.inputs.append(copies[past])
        clones = [_clone(node, number, copies, graph) for node in layer]
        graph.insert_after(last_node, clones)
        graph.outputs.extend(copies[present] for present in presents)
        last_node, states = clones[-1], {before: copies[after] for before, after in links}
    last = {after: states[before] for before, after in links}
    for use, after in tail_uses:
        use.node.replace_input_with(use.idx, last[after])
    for position, value in enumerate(graph.outputs):
        if value in last:  # a stage of a pipeline hands the hidden state over
            graph.outputs[position] = last[value]


def _clone(node: ir.Node, number: int, copies: dict[ir.Value, ir.Value], graph: ir.Graph) -> ir.Node:
    """Copy `node` for layer `number`, with inputs mapped by `copies`, which the outputs are added to."""
    inputs = []
    for value in node.inputs:
        if (
            value is not None
            and value not in copies
            and value.is_initializer()
            and value.name.startswith(f"{_PREFIX}1.")
        ):
            name = value.name.replace(f"{_PREFIX}1.", f"{_PREFIX}{number}.", 1)
            copies[value] = ir.Value(name=name, shape=value.shape, type=value.type, const_value=value.const_value)
            graph.initializers[name] = copies[value]
        inputs.append(None if value is None else copies.get(value, value))
    clone = ir.Node(
        node.domain,
        node.op_type,
        inputs,
        attributes=list(node.attributes.values()),
        outputs=[ir.Value(shape=value.shape, type=value.type) for value in node.outputs],
        version=node.version,
    )
    scopes = node.metadata_props["pkg.torch.onnx.name_scopes"]
    clone.metadata_props["pkg.torch.onnx.name_scopes"] = scopes.replace(f"{_PREFIX}1", f"{_PREFIX}{number}")
    copies.update(zip(node.outputs, clone.outputs, strict=True))
    return clone


def _layer_of(node: ir.Node) -> int | None:
    """Return the number of the layer that a node was traced in, or None outside the layers."""
    for scope in ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]")):
        if scope.startswith(_PREFIX):
            return int(scope.removeprefix(_PREFIX).split(".")[0])
    return None


def _links(before: list[ir.Node], layer: list[ir.Node]) -> list[tuple[ir.Value, ir.Value]]:
    """Return each tensor of layer 0 that layer 1 reads, with the tensor of layer 1 that stands in its place.

    Layers are alike from their ends: only their first norms may differ, since layer 0 has no sum to take in.
    """
    produced = {value: (place, index) for place, node in enumerate(reversed(before)) for index, value in _results(node)}
    links: dict[ir.Value, ir.Value] = {}
    for node in layer:
        for value in node.inputs:
            if value in produced and value not in links:
                place, index = produced[value]
                links[value] = layer[-1 - place].outputs[index]
    return list(links.items())


def _results(node: ir.Node) -> list[tuple[int, ir.Value]]:
    return [] if node.op_type == "Constant" else list(enumerate(node.outputs))


def _leaving(graph: ir.Graph, layer: list[ir.Node]) -> set[ir.Value]:
    """Return the tensors of the last layer that something after it reads."""
    members = set(layer)
    leaving = {
        value
        for node in layer
        for _, value in _results(node)
        if not value.is_graph_output() and any(user not in members for user in value.consumers())
    }
    if not leaving:  # a pipeline stage that ends with its last layer gives the hidden state itself
        leaving = {value for value in list(graph.outputs)[:1] if value.producer() in members}
    return leaving
