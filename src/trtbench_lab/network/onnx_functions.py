"""ONNX functions, of standard ops, behind the nodes of an exported network that are not standard.

One file serves everybody: TensorRT's parser takes its own operator, or a plugin, where it knows the node's name, and
any other reader runs the function's body. Names carry the variant, because the parser looks functions up by name.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx_ir as ir

from ..plugins.frame import function_source
from ..plugins.function_node import PLUGIN_DOMAIN
from ..plugins.registry import plugins_by_op_type
from . import collectives
from .ops import TENSORRT_DOMAIN

OPSET = 24
FUNCTION_VERSION = 1

# The attributes that only TensorRT reads are declared, so that the node's call is well formed.
_SOURCES = {
    (TENSORRT_DOMAIN, "TRT_KVCacheUpdate"): """
        <domain: "trtbench.trt", opset_import: ["" : 24]>
        TRT_KVCacheUpdate <update_form: string = "padded_bhnd", mode: string = "linear", axis: int = -2>
            (past, update, write_indices) => (present)
        {
            present = TensorScatter <axis: int = @axis, mode: string = @mode> (past, update, write_indices)
        }""",
    (TENSORRT_DOMAIN, "TRT_Attention"): """
        <domain: "trtbench.trt", opset_import: ["" : 24]>
        TRT_Attention <causal_kind: string = "none", query_form: string = "padded_bhnd",
                       kv_form: string = "padded_bhnd"> (query, key, value, mask) => (context)
        {
            context = Attention <scale = 1.0> (query, key, value, mask)
        }""",
    (PLUGIN_DOMAIN, "Int8MatMul"): """
        <domain: "trtbench", opset_import: ["" : 24]>
        Int8MatMul (x, weight, scale) => (y)
        {
            dense = DequantizeLinear <axis = 0> (weight, scale)
            transposed = Transpose <perm = [1, 0]> (dense)
            y = MatMul (x, transposed)
        }""",
    (PLUGIN_DOMAIN, "Int8GroupMatMul"): """
        <domain: "trtbench", opset_import: ["" : 24]>
        Int8GroupMatMul <in_features: int> (x, weight, scale) => (y)
        {
            groups = DequantizeLinear <axis = 0> (weight, scale)
            rows = Constant <value_ints = [-1]> ()
            width = Constant <value_int: int = @in_features> ()
            axis = Constant <value_ints = [0]> ()
            columns = Unsqueeze (width, axis)
            shape = Concat <axis = 0> (rows, columns)
            dense = Reshape (groups, shape)
            transposed = Transpose <perm = [1, 0]> (dense)
            y = MatMul (x, transposed)
        }""",
    (PLUGIN_DOMAIN, "Int4MatMul"): """
        <domain: "trtbench", opset_import: ["" : 24]>
        Int4MatMul <group_size: int> (x, weight, scale) => (y)
        {
            dense = DequantizeLinear <axis = 1, block_size: int = @group_size> (weight, scale)
            transposed = Transpose <perm = [1, 0]> (dense)
            y = MatMul (x, transposed)
        }""",
}


def functions_for(nodes: Iterable[ir.Node]) -> list[ir.Function]:
    """Return the function behind each kind of non-standard node among `nodes`."""
    wanted = dict.fromkeys((node.domain, node.op_type, node.overload) for node in nodes if node.domain)
    return [ir.serde.deserialize_function(_function(*name)) for name in wanted]


def _function(domain: str, op_type: str, overload: str) -> onnx.FunctionProto:
    if op_type == collectives.OP_TYPE:
        return collectives.function_of(overload)
    return onnx.parser.parse_function(_source(domain, op_type))


def _source(domain: str, op_type: str) -> str:
    known = _SOURCES.get((domain, op_type))
    return known if known is not None else function_source(plugins_by_op_type()[op_type])
