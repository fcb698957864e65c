"""Repeat the second layer of a network traced with two, so that export time does not grow with depth."""

from __future__ import annotations

import ast

import onnx_ir as ir

from ..errors import BuildError
from .decoder import Decoder

_PREFIX = "transformer.layers."


def layers_are_alike(decoder: Decoder) -> bool:
    """Whether all layers have parameters of the same names, shapes and types."""

    def traits(layer: object) -> list[object]:
        return [(name, tuple(tensor.shape), tensor.dtype) for name, tensor in layer.named_parameters()]  # type: ignore[attr-defined]

    first, *others = [traits(layer) for layer in decoder.transformer.layers]
    return all(other == first for other in others)


def unroll_layers(graph: ir.Graph, num_layers: int) -> None:
    """Extend a graph of two layers to `num_layers` by repeating layer 1, in place.

    New initializers, cache inputs and cache outputs are made for each repetition, in the order that a full trace has.

    Raises
    ------
    BuildError
        When layer 1 reads anything of layer 0 besides one hidden state and constants; the layers are then no chain.
    """
    layer = [node for node in graph if _layer_of(node) == 1]
    hidden_in = _hidden_input(layer)
    hidden_out = _hidden_output(graph, layer)
    presents = [value for node in layer for value in node.outputs if value.is_graph_output()]
    pasts = list(graph.inputs)[-len(presents) :]
    tail_uses = [use for use in hidden_out.uses() if _layer_of(use.node) != 1]

    last_node, hidden = layer[-1], hidden_out
    for number in range(2, num_layers):
        copies: dict[ir.Value, ir.Value] = {hidden_in: hidden}
        for past in pasts:
            copies[past] = ir.Value(name=f"{past.name}_{number}", shape=past.shape, type=past.type)
            graph.inputs.append(copies[past])
        clones = [_clone(node, number, copies, graph) for node in layer]
        graph.insert_after(last_node, clones)
        graph.outputs.extend(copies[present] for present in presents)
        last_node, hidden = clones[-1], copies[hidden_out]
    for use in tail_uses:
        use.node.replace_input_with(use.idx, hidden)


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


def _hidden_input(layer: list[ir.Node]) -> ir.Value:
    from_layer_0 = {
        value
        for node in layer
        for value in node.inputs
        if value is not None
        and (producer := value.producer()) is not None
        and _layer_of(producer) == 0
        and producer.op_type != "Constant"
    }
    return _only(from_layer_0)


def _hidden_output(graph: ir.Graph, layer: list[ir.Node]) -> ir.Value:
    members = set(layer)
    leaving = {
        value
        for node in layer
        for value in node.outputs
        if node.op_type != "Constant"
        and not value.is_graph_output()
        and any(user not in members for user in value.consumers())
    }
    if not leaving:  # a pipeline stage that ends with its last layer gives the hidden state itself
        leaving = {value for value in list(graph.outputs)[:1] if value.producer() in members}
    return _only(leaving)


def _only(values: set[ir.Value]) -> ir.Value:
    if len(values) != 1:
        raise BuildError(
            f"Layers are connected by {len(values)} tensors where one hidden state was expected.",
            where="network/unroll.py",
            remedy="Export with repeat_layers=False.",
        )
    return next(iter(values))
