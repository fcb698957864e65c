"""An ONNX file as layers: what ONNX Runtime loads, or TensorRT parses, before either has fused anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...network.node_names import module_of_node
from ..dtypes import dtype_name
from ..kinds import kind_of
from ..layer import UNKNOWN_SIZE, Layer, TensorFacts
from ..onnx_report import load_onnx
from ..reading import Reading
from ..work import with_work

if TYPE_CHECKING:
    import onnx


def read_onnx(path: Path, *, sizes: Mapping[str, int] | None = None, backend: str = "onnxruntime") -> Reading:
    """Return the nodes of an ONNX file as layers; external data is not read.

    Parameters
    ----------
    path
        The file.
    sizes
        Dynamic dimension → size, where a run's sizes are wanted.
    backend
        Whose engine it is.

    Raises
    ------
    EngineError
        When the file cannot be read.
    """
    model = load_onnx(path)
    known, notes = _known(model, sizes or {})
    constants = {tensor.name: _stored_bytes(tensor) for tensor in model.graph.initializer}
    layers = []
    for number, node in enumerate(model.graph.node):
        if node.op_type == "Constant":
            continue
        layers.append(_layer(node, number, known, constants))
    io = [known[value.name] for value in (*model.graph.input, *model.graph.output) if value.name not in constants]
    functions = f", {len(model.functions)} functions" if model.functions else ""
    return Reading(
        form=f"ONNX graph of {len(layers)} nodes{functions}, as built",
        backend=backend,
        layers=tuple(layers),
        io=tuple(io),
        notes=notes,
    )


def _layer(
    node: onnx.NodeProto, number: int, known: Mapping[str, TensorFacts], constants: Mapping[str, tuple[int, str | None]]
) -> Layer:
    name = node.name or f"{node.op_type} #{number}"
    weights = [constants[tensor] for tensor in node.input if tensor in constants]
    inputs = tuple(
        known.get(tensor, TensorFacts(name=tensor)) for tensor in node.input if tensor and tensor not in constants
    )
    outputs = tuple(known.get(tensor, TensorFacts(name=tensor)) for tensor in node.output if tensor)
    type_ = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
    return with_work(
        Layer(
            name=name,
            type=type_,
            kind=kind_of(node.op_type, name),
            module=module_of_node(name),
            nodes=(name,) if "/" in name else (),
            inputs=inputs,
            outputs=outputs,
            weights_bytes=sum(size for size, _ in weights) if weights else 0,
            weights_dtype=max(weights)[1] if weights else None,
        )
    )


def _known(model: onnx.ModelProto, sizes: Mapping[str, int]) -> tuple[dict[str, TensorFacts], list[str]]:
    """Return what is known of each tensor: what the file states, and what ONNX infers from it."""
    import onnx

    notes = []
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True)
    except Exception as error:  # operators of others, versions of others: the graph is shown all the same
        notes.append(f"Shapes could not be inferred ({type(error).__name__}); those that the file states are shown.")
        inferred = model
    known: dict[str, TensorFacts] = {}
    for value in (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input):
        known[value.name] = _facts(value, sizes)
    return known, notes


def _facts(value: Any, sizes: Mapping[str, int]) -> TensorFacts:
    from onnx import TensorProto

    tensor = value.type.tensor_type
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(
            dim.dim_value if dim.HasField("dim_value") else sizes.get(dim.dim_param, UNKNOWN_SIZE)
            for dim in tensor.shape.dim
        )
    dtype = TensorProto.DataType.Name(tensor.elem_type) if tensor.elem_type else None
    return TensorFacts(name=value.name, dtype=dtype_name(dtype), shape=shape)


def _stored_bytes(tensor: Any) -> tuple[int, str | None]:
    from onnx import TensorProto

    dtype = dtype_name(TensorProto.DataType.Name(tensor.data_type))
    outside = {entry.key: entry.value for entry in tensor.external_data}
    if outside.get("length", "").isdigit():
        return int(outside["length"]), dtype
    if tensor.raw_data:
        return len(tensor.raw_data), dtype
    facts = TensorFacts(dtype=dtype, shape=tuple(tensor.dims))
    return facts.nbytes or 0, dtype
