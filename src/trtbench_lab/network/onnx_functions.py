"""ONNX functions, of standard ops, behind the nodes of an exported network that are not standard.

One file serves everybody: TensorRT's parser takes its own operator, or a plugin, where it knows the node's name, and
any other reader runs the function's body. Names carry the variant, because the parser looks functions up by name.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx_ir as ir

from ..plugins.frame import function_source
from ..plugins.registry import plugins_by_op_type
from . import collectives
from .onnx_quantized_functions import QUANTIZED_SOURCES
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
    **QUANTIZED_SOURCES,
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
