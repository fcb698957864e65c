"""TensorRT's inspector JSON (11.x, and what 10.x wrote), and layer times of trtexec or of this project beside it.

What is not known is passed over: a new layer type or field must not keep a person from the rest.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import EngineError
from ...network.node_names import common_module, module_of_node, nodes_in
from ..dtypes import dtype_bits, dtype_name
from ..kinds import kind_of
from ..layer import Layer, TensorFacts
from ..reading import Reading, unknown_form
from ..work import with_work

FORM = "TensorRT inspector JSON"
# "[ONNX Layer: node | calling node (function)]", one after another with a separator character in between.
_ORIGIN = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_TYPE_IN_NAME = re.compile(r"^\[(\w+)\] ")
_PROFILE_SUFFIX = re.compile(r" \[profile \d+\]$")
_KNOWN_FIELDS = frozenset(
    {
        "Name", "LayerType", "ParameterType", "Inputs", "Outputs", "TacticName", "TacticValue", "StreamId", "Metadata",
        "Weights", "Bias", "Attributes", "Activation", "Constants", "Shape", "Scale", "Origin", "ParameterSubType",
        "Operations", "NbInputArgs", "InputArgs", "NbOutputVars", "OutputVars", "NbParams", "Params", "NbLiterals",
        "Literals", "NbOperations", "OutChannelPerm", "OutputChannels", "HasBias", "HasReLU", "HasSparseWeights",
        "Kernel", "PaddingMode", "PrePadding", "PostPadding", "Stride", "Dilation", "Groups", "AllowSparse",
        "SubLayers",
        "InputMappingType", "ConvXAsActInputIdx", "ConvXAsConvIdx", "PluginName", "PluginVersion", "PluginNamespace",
        "Alpha", "Beta", "Axis", "Axes", "Dimensions", "Slope", "Power", "Type", "KeepDims", "Mode",
    }
)  # fmt: skip


def is_inspector(content: Any) -> bool:
    """Whether parsed JSON looks like the inspector's."""
    return isinstance(content, Mapping) and isinstance(content.get("Layers"), Sequence)


def is_times(content: Any) -> bool:
    """Whether parsed JSON looks like layer times: trtexec's list, or a profile of this project."""
    if isinstance(content, Mapping):
        return str(content.get("format", "")).startswith("trtbench-layer-profile")
    return isinstance(content, list) and any(
        isinstance(row, Mapping) and "name" in row and ("averageMs" in row or "timeMs" in row) for row in content
    )


def read_inspector(content: Any, where: str, times: Mapping[str, Sequence[float]] | None = None) -> Reading:
    """Return the layers of an inspector's JSON.

    Parameters
    ----------
    content
        Parsed JSON: ``{"Layers": [...], "I/O Tensors": [...]}``; layers are names only, or tables.
    where
        The file, for errors.
    times
        Layer name → milliseconds, one a run.
    """
    if not is_inspector(content):
        raise unknown_form(where)
    notes: list[str] = []
    unknown: Counter[str] = Counter()
    layers = [_layer(item, unknown) for item in content["Layers"]]
    if layers and all(isinstance(item, str) for item in content["Layers"]):
        notes.append(
            "The file holds layers' names only: no precision, tactics or memory. Build with "
            "--profiling_verbosity detailed "
            "to see them."
        )
    if not layers:
        notes.append("The engine tells no layers: it was built with profiling_verbosity none.")
    if unknown:
        listed = ", ".join(sorted(unknown)[:8]) + (" …" if len(unknown) > 8 else "")
        notes.append(f"Fields that this version does not know were passed over: {listed}.")
    if times:
        layers, unmatched = _timed(layers, times)
        if unmatched:
            notes.append(
                f"{len(unmatched)} timed layers are not in the inspector's list and stand at the end: "
                f"{', '.join(unmatched[:3])}" + (" …" if len(unmatched) > 3 else "")
            )
    profiles = {found.group() for layer in layers if (found := _PROFILE_SUFFIX.search(layer.name))}
    if profiles:
        notes.append(
            f"Layers of {len(profiles) + 1} optimization profiles are listed one after another; a run uses those "
            "of one."
        )
    return Reading(form=FORM, backend="tensorrt", layers=tuple(layers), io=_io(content), notes=notes)


def read_times(content: Any, where: str) -> dict[str, tuple[float, ...]]:
    """Return layer name → milliseconds from trtexec's ``--exportProfile`` or a layer profile of this project.

    Raises
    ------
    EngineError
        When the file is neither.
    """
    if not is_times(content):
        raise EngineError(
            "This file holds no layer times.",
            where=where,
            remedy="Give what trtexec --exportProfile wrote, or rank0.profile.json of an engine folder.",
        )
    rows = content["layers"] if isinstance(content, Mapping) else content
    times: dict[str, tuple[float, ...]] = {}
    try:
        for row in rows:
            if "times_ms" in row:
                times[str(row["name"])] = tuple(float(value) for value in row["times_ms"])
            elif "name" in row:
                value = row.get("medianMs", row.get("averageMs"))
                if value is not None:
                    before = times.get(str(row["name"]), (0.0,))
                    times[str(row["name"])] = (before[0] + float(value),)
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"The layer times are damaged: {error}.", where=where, remedy="Record them again.") from error
    return times


def read_only_times(content: Any, where: str) -> Reading:
    """Return layers that are known by their times alone."""
    layers = tuple(_named(name, values) for name, values in read_times(content, where).items())
    note = "Only times are known: no precision, tactics or memory. Give the inspector's JSON and these by --times."
    table = content if isinstance(content, Mapping) else {}
    return Reading(form="TensorRT layer times", backend="tensorrt", layers=layers, notes=[note], **_what_was_run(table))


def _what_was_run(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return phase and sizes that a layer profile of this project tells."""
    found: dict[str, Any] = {}
    if isinstance(table.get("phase"), str):
        found["phase"] = table["phase"]
    shapes = table.get("shapes")
    ids = shapes.get("input_ids") if isinstance(shapes, Mapping) else None
    if isinstance(ids, Sequence) and len(ids) == 2:
        found["batch_size"] = int(ids[0])
    return found


def _layer(item: Any, unknown: Counter[str]) -> Layer:
    if not isinstance(item, Mapping):
        return _named(str(item))
    unknown.update(field for field in item if field not in _KNOWN_FIELDS)
    name = str(item.get("Name", "unnamed"))
    type_ = str(item.get("LayerType") or item.get("ParameterType") or "")
    metadata = item.get("Metadata")
    nodes = _nodes(name, metadata if isinstance(metadata, str) else "")
    weights_bytes, weights_dtype = _weights(item)
    kind = kind_of(type_, name, nodes)
    return with_work(
        Layer(
            name=name,
            type=type_ or _type_of(name),
            kind=kind,
            module=_module(nodes),
            nodes=_made_of(name, nodes),
            inputs=_tensors(item.get("Inputs")),
            outputs=_tensors(item.get("Outputs")),
            weights_bytes=weights_bytes,
            weights_dtype=weights_dtype,
            tactic=_tactic(item),
        )
    )


def _named(name: str, times_ms: Sequence[float] = ()) -> Layer:
    """Return a layer of which only the name is known, and perhaps its times."""
    nodes, type_ = nodes_in(name), _type_of(name)
    return Layer(
        name=name,
        type=type_,
        kind=kind_of(type_, name, nodes),
        module=_module(nodes),
        nodes=_made_of(name, nodes),
        times_ms=tuple(times_ms),
    )


def _type_of(name: str) -> str:
    """Return what a name alone tells of a layer's type."""
    found = _TYPE_IN_NAME.match(name)
    if found:
        return found.group(1)
    if name.startswith("Reformatting CopyNode"):
        return "Reformat"
    return "ForeignNode" if name.startswith("{ForeignNode") else ""


def _nodes(name: str, metadata: str) -> tuple[str, ...]:
    """Return our nodes: those that TensorRT's metadata names, else those in the layer's name.

    Nodes in a function's body have no name that says anything; the node that called the function stands behind them.
    """
    found: dict[str, None] = {}
    for origin in _ORIGIN.findall(metadata):
        for part in origin.split(" | "):
            found.update(dict.fromkeys(nodes_in(part)))
    return tuple(found) or nodes_in(name)


def _made_of(name: str, nodes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the nodes that a layer computes: a reformat is named after its neighbour and computes none."""
    return () if name.startswith("Reformatting CopyNode") else nodes


def _module(nodes: Sequence[str]) -> str | None:
    return common_module(module for node in nodes if (module := module_of_node(node)) is not None)


def _tensors(found: Any) -> tuple[TensorFacts, ...]:
    if not isinstance(found, Sequence) or isinstance(found, str):
        return ()
    return tuple(_tensor(item) for item in found)


def _tensor(item: Any) -> TensorFacts:
    if not isinstance(item, Mapping):
        return TensorFacts(name=str(item))
    both = item.get("Format/Datatype")  # until 10.x one text for both
    layout = item.get("Format", both)
    dtype = dtype_name(item.get("DataType") or item.get("Datatype") or item.get("Data Type") or both or layout)
    return TensorFacts(
        name=str(item.get("Name", "")), dtype=dtype, shape=_shape(item.get("Dimensions")), layout=_text(layout)
    )


def _shape(found: Any) -> tuple[int, ...] | None:
    if not isinstance(found, Sequence) or isinstance(found, str):
        return None
    return tuple(size if isinstance(size, int) and not isinstance(size, bool) else -1 for size in found)


def _weights(item: Mapping[str, Any]) -> tuple[int | None, str | None]:
    """Return bytes and main type of the constants that a layer tells of."""
    total, dtype, known = 0, None, False
    largest = 0
    for field in ("Weights", "Bias"):
        facts = item.get(field)
        if not isinstance(facts, Mapping) or not isinstance(facts.get("Count"), int):
            continue
        found = dtype_name(facts.get("Type"))
        bits = dtype_bits(found)
        if bits is None:
            continue
        nbytes = -(-bits * facts["Count"] // 8)
        total, known = total + nbytes, True
        if nbytes > largest:
            largest, dtype = nbytes, found
    return (total if known else None), dtype


def _tactic(item: Mapping[str, Any]) -> str | None:
    name = _text(item.get("TacticName"))
    value = _text(item.get("TacticValue"))
    return name or (value if value not in (None, "0x0000000000000000") else None)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _io(content: Mapping[str, Any]) -> tuple[TensorFacts, ...]:
    found = content.get("I/O Tensors")
    if isinstance(found, Sequence):
        return _tensors(found)
    return _tensors(content.get("Bindings"))  # until 10.x: names


def _timed(layers: list[Layer], times: Mapping[str, Sequence[float]]) -> tuple[list[Layer], list[str]]:
    import dataclasses

    left = dict(times)
    timed = []
    for layer in layers:
        values = left.pop(layer.name, None)
        timed.append(layer if values is None else dataclasses.replace(layer, times_ms=tuple(values)))
    return [*timed, *(_named(name, values) for name, values in left.items())], list(left)
