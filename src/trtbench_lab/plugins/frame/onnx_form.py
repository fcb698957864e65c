"""The third form of a plugin: an ONNX node, and the function of standard ops behind it.

The node carries ``plugin_namespace``, so that TensorRT's parser takes the plugin; every other reader runs the function.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from .call import Attributes, Operand
from .torch_form import dtype_of, operand_of

if TYPE_CHECKING:
    import onnx

    from .plugin import Plugin

OPSET = 24
IR_VERSION = 11
FUNCTION_VERSION = 1
_ELEMENT_NAMES = {"float32": "FLOAT", "float8_e4m3fn": "FLOAT8E4M3FN"}
_TYPES = {int: "int", float: "float"}


def record(plugin: Plugin, tensors: Sequence[torch.Tensor], attributes: Attributes) -> Any:
    """Record one node in a network that is being exported; returns all results, aliased ones too."""
    from torch.onnx import ops as onnx_ops

    values = dict(zip(plugin.attributes, plugin.ordered(attributes), strict=True))
    results = plugin.signature([operand_of(tensor) for tensor in tensors], attributes)
    made = onnx_ops.symbolic_multi_out(
        plugin.id,
        tensors,
        {**values, **node_attributes(plugin)},
        dtypes=[dtype_of(one.dtype) for one in results],
        shapes=[one.shape for one in results],
        version=FUNCTION_VERSION,
    )
    return tuple(made) if len(made) > 1 else made[0]


def node_attributes(plugin: Plugin) -> dict[str, int | str]:
    """Return the attributes that only TensorRT's parser reads; ``aot`` asks for a kernel compiled beforehand."""
    return {"plugin_namespace": plugin.id.partition("::")[0], "plugin_version": plugin.version, "aot": 1}


def function_source(plugin: Plugin) -> str:
    """Return the ONNX function in ONNX's text form."""
    declared = [f"{name}: {_TYPES[kind]}" for name, kind in plugin.attributes.items()]
    for name, value in node_attributes(plugin).items():
        declared.append(f'{name}: string = "{value}"' if isinstance(value, str) else f"{name}: int = {value}")
    return (
        f'<domain: "{plugin.id.partition("::")[0]}", opset_import: ["" : {OPSET}]>\n'
        f"{plugin.op_type} <{', '.join(declared)}> ({', '.join(plugin.inputs)}) => ({', '.join(plugin.outputs)})\n"
        f"{{\n{plugin.onnx_body}\n}}"
    )


def one_node_model(plugin: Plugin, operands: Sequence[Operand], attributes: Attributes) -> onnx.ModelProto:
    """Return a model whose graph is one call of `plugin`: for tests, for Netron, for a bug report.

    Its inputs have the plugin's names; its outputs those of the plugin with ``_out`` behind them.
    """
    import onnx

    def value(name: str, one: Operand) -> onnx.ValueInfoProto:
        kind = onnx.TensorProto.DataType.Value(_ELEMENT_NAMES.get(one.dtype, one.dtype.upper()))
        return onnx.helper.make_tensor_value_info(name, kind, one.shape)

    results = plugin.signature(operands, attributes)
    outputs = [f"{name}_out" for name in plugin.outputs]  # an aliased output may have its input's name
    values = dict(zip(plugin.attributes, plugin.ordered(attributes), strict=True))
    domain = plugin.id.partition("::")[0]
    node = onnx.helper.make_node(
        plugin.op_type, list(plugin.inputs), outputs, domain=domain, **values, **node_attributes(plugin)
    )
    graph = onnx.helper.make_graph(
        [node],
        plugin.name,
        [value(name, one) for name, one in zip(plugin.inputs, operands, strict=True)],
        [value(name, one) for name, one in zip(outputs, results, strict=True)],
    )
    return onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(domain, FUNCTION_VERSION)],
        functions=[onnx.parser.parse_function(function_source(plugin))],
        ir_version=IR_VERSION,
    )
