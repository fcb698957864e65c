"""ONNX Runtime's profile: what ran, after its own fusions, with types and sizes of each run."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ...network.node_names import common_module, module_of_node
from ..dtypes import dtype_name
from ..kinds import kind_of
from ..layer import Layer, TensorFacts
from ..reading import Reading, unknown_form
from ..work import with_work

FORM = "ONNX Runtime profile"
_SUFFIX = "_kernel_time"


def is_profile(content: Any) -> bool:
    """Whether parsed JSON looks like ONNX Runtime's profile."""
    return isinstance(content, list) and any(
        isinstance(event, Mapping) and event.get("cat") in ("Session", "Node") for event in content[:50]
    )


def read_profile(content: Any, where: str, *, graph: Sequence[Layer] = (), skip_runs: int = 0) -> Reading:
    """Return the nodes that ran as layers, with their times.

    Parameters
    ----------
    content
        Parsed JSON: a list of events.
    where
        The file, for errors.
    graph
        Layers of the ONNX file that was run: they give weights and tensor names, which a profile lacks.
    skip_runs
        Runs at the beginning that are not counted.
    """
    if not is_profile(content):
        raise unknown_form(where)
    events: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for event in content:
        if isinstance(event, Mapping) and event.get("cat") == "Node" and str(event.get("name", "")).endswith(_SUFFIX):
            arguments = event.get("args")
            index = str(arguments.get("node_index", "")) if isinstance(arguments, Mapping) else ""
            events[index, str(event["name"]).removesuffix(_SUFFIX)].append(event)
    known = {layer.name: layer for layer in graph}
    layers = [
        layer for (_, name), found in events.items() if (layer := _layer(name, found[skip_runs:], known)) is not None
    ]
    notes = ["Times include what the profiler itself costs, about 1 to 3 µs a node."]
    placed = _placed_between_neighbours(layers, known) if known else layers
    inferred = sum(layer.inferred for layer in placed)
    if inferred:
        notes.append(
            f"{inferred} layers are ONNX Runtime's own fusions, whose names tell no module: they stand where "
            "their neighbours do."
        )
    return Reading(form=FORM, backend="onnxruntime", layers=tuple(placed), notes=notes)


def _layer(name: str, events: Sequence[Mapping[str, Any]], known: Mapping[str, Layer]) -> Layer | None:
    if not events:
        return None
    arguments = events[-1].get("args")
    facts: Mapping[str, Any] = arguments if isinstance(arguments, Mapping) else {}
    type_ = str(facts.get("op_name", "unknown"))
    origin = known.get(name)
    inputs, outputs = _tensors(facts.get("input_type_shape")), _tensors(facts.get("output_type_shape"))
    # Where weights lie packed a profile leaves them out; else they stand among the inputs, after the activations.
    parameters = _integer(facts.get("parameter_size"))
    weights = origin.weights_bytes if origin is not None else parameters
    weights_dtype = origin.weights_dtype if origin is not None else None
    activations = _integer(facts.get("activation_size"))
    if parameters and activations is not None:
        inputs = _activations_of(inputs, activations)
    if origin is not None and len(origin.inputs) == len(inputs):
        inputs = _with_names(inputs, origin.inputs)
    if origin is not None and len(origin.outputs) == len(outputs):
        outputs = _with_names(outputs, origin.outputs)
    provider = str(facts.get("provider", "")).removesuffix("ExecutionProvider")
    return with_work(
        Layer(
            name=name,
            type=type_,
            kind=kind_of(type_, name),
            module=module_of_node(name),
            nodes=(name,) if module_of_node(name) is not None else (),
            inputs=inputs,
            outputs=outputs,
            weights_bytes=weights,
            weights_dtype=weights_dtype,
            tactic=f"{provider} {type_}" if provider else None,
            times_ms=tuple(float(event.get("dur", 0)) / 1e3 for event in events),
        )
    )


def _tensors(found: Any) -> tuple[TensorFacts, ...]:
    """Read ``[{"float": [1, 2]}, …]``."""
    tensors = []
    for item in found if isinstance(found, list) else []:
        if isinstance(item, Mapping):
            for dtype, shape in item.items():
                sizes = tuple(int(size) for size in shape) if isinstance(shape, list) else None
                tensors.append(TensorFacts(dtype=dtype_name(dtype), shape=sizes))
    return tuple(tensors)


def _activations_of(inputs: tuple[TensorFacts, ...], activation_bytes: int) -> tuple[TensorFacts, ...]:
    """Return the inputs that are no weights, told by the bytes of activations that the profile states."""
    for count in range(len(inputs), -1, -1):
        if sum(tensor.nbytes or 0 for tensor in inputs[:count]) == activation_bytes:
            return inputs[:count]
    for count in range(len(inputs), -1, -1):  # tables come first in a lookup
        if sum(tensor.nbytes or 0 for tensor in inputs[len(inputs) - count :]) == activation_bytes:
            return inputs[len(inputs) - count :]
    return inputs


def _with_names(tensors: tuple[TensorFacts, ...], named: tuple[TensorFacts, ...]) -> tuple[TensorFacts, ...]:
    return tuple(dataclasses.replace(a, name=b.name) for a, b in zip(tensors, named, strict=True))


def _integer(value: Any) -> int | None:
    return int(value) if isinstance(value, str) and value.isdigit() else None


def _placed_between_neighbours(layers: list[Layer], known: Mapping[str, Layer]) -> list[Layer]:
    """Give fusions without a module of their own the module that holds the modules before and after them."""
    placed = []
    for position, layer in enumerate(layers):
        if layer.module is not None or layer.name in known:
            placed.append(layer)
            continue
        before = next((one.module for one in reversed(layers[:position]) if _leads(one)), None)
        after = next((one.module for one in layers[position + 1 :] if _leads(one)), None)
        found = [module for module in (before, after) if module is not None]
        placed.append(dataclasses.replace(layer, module=common_module(found), inferred=True) if found else layer)
    return placed


def _leads(layer: Layer) -> bool:
    return layer.module is not None and layer.module.startswith(("transformer", "lm_head"))
