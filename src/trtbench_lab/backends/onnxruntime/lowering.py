"""Rewrite the portable network into the form that ONNX Runtime runs fastest on a CPU; what it computes stays."""

from __future__ import annotations

import onnx_ir as ir

from ...network.export import ExportedNetwork
from ...network.initializers import Initializer
from ...network.ops import TENSORRT_DOMAIN
from ...plugins.function_node import PLUGIN_DOMAIN
from ...plugins.registry import plugins_by_op_type
from ...quantization.linear_kinds import LinearForm
from ...specs import ModelConfig
from .attention import lower_attention
from .float8 import use_rounded_floats, use_rounding
from .graph_edits import MICROSOFT_DOMAIN, remove_unused
from .integer_product import use_integers
from .weight_only import Products, lower_weight_only


def lower_for_onnxruntime(
    network: ExportedNetwork, config: ModelConfig, *, fuse_attention: bool, products: Products
) -> None:
    """Rewrite `network` in place: of nodes outside of ONNX's and ONNX Runtime's domains, plugins' keep their functions.

    Parameters
    ----------
    network
        An exported network, not yet written.
    config
        Its model.
    fuse_attention
        See `lower_attention`.
    products
        How weight-only layers are computed.

    Notes
    -----
    Tried and left out, because a decode step of a 124M model took the same time to 2 %: residual additions joined with
    norms (SkipLayerNormalization), and a mask of numbers made once instead of one of booleans in each layer.
    """
    model, plugins = network.model, plugins_by_op_type()
    lower_attention(model.graph, config, fused=fuse_attention)
    for node in list(model.graph):
        if node.domain == PLUGIN_DOMAIN and node.op_type not in plugins:
            _lower_quantized(node, network, products)
        elif not node.domain and node.op_type == "MatMul":
            _store_transposed(node, network)
    remove_unused(model.graph)
    for key in [one for one in model.functions if one[1] not in plugins]:
        del model.functions[key]
    model.opset_imports.pop(TENSORRT_DOMAIN, None)
    if not model.functions:
        model.opset_imports.pop(PLUGIN_DOMAIN, None)
    model.opset_imports[MICROSOFT_DOMAIN] = 1


def _lower_quantized(node: ir.Node, network: ExportedNetwork, products: Products) -> None:
    """Replace a node of the network's own domain: a product with quantized weights, or the rounding before one."""
    if node.op_type == "Fp8Round":
        use_rounding(node)
        return
    weight = node.inputs[1]
    module = "" if weight is None or weight.name is None else weight.name.removesuffix(".weight")
    linear = network.quantized[module]
    assert linear.kind is not None, f"{module} is not quantized"  # noqa: S101
    if linear.kind.form is LinearForm.INT8:
        use_integers(node, network, module, linear)
    elif linear.kind.form is LinearForm.FP8:
        use_rounded_floats(node, network, module, linear)
    else:
        lower_weight_only(node, network, module, linear, products)


def _store_transposed(node: ir.Node, network: ExportedNetwork) -> None:
    """Replace ``MatMul(x, Transpose(W))`` by ``MatMul(x, Wᵀ)`` with Wᵀ stored: W is read once a token, row by row."""
    transpose = None if node.inputs[1] is None else node.inputs[1].producer()
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
