"""From a decoder to the program that `torch.onnx.export` translates, traced once where torch would trace twice."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import nn

_aten = torch.ops.aten
_OWN = ("trtbench", "onnx_symbolic")  # the vocabulary of `ops`, and the nodes of functions
# torch's operators that become ONNX as they stand.
_AS_THEY_STAND = frozenset(
    {
        operator.getitem,
        _aten._assert_tensor_metadata.default,
        _aten.add.Tensor,
        _aten.clamp_max.default,
        _aten.div.Tensor,
        _aten.embedding.default,
        _aten.gelu.default,
        _aten.index_select.default,
        _aten.layer_norm.default,
        _aten.mul.Tensor,
        _aten.permute.default,
        _aten.relu.default,
        _aten.silu.default,
        _aten.slice.Tensor,
        _aten.sym_size.int,
    }
)


def traced(decoder: nn.Module, arguments: tuple[Any, ...], shapes: tuple[Any, ...]) -> torch.export.ExportedProgram:
    """Trace `decoder` with fake `arguments`, whose dynamic dimensions `shapes` names.

    The exporter decomposes every program before it translates it, by tracing it a second time: half of an export's
    time, 1.3 s of two layers. A program of nothing but operators that torch decomposes no further is given as it is.
    """
    program = torch.export.export(decoder, arguments, dynamic_shapes=shapes, strict=False)
    _drop_idle(program.graph)
    if all(_stands(node) for node in program.graph.nodes):
        program.run_decompositions = lambda *_, **__: program
    return program


def _drop_idle(graph: torch.fx.Graph) -> None:
    """Remove what computes nothing: shapes that nobody reads, and casts to the type that a value has already."""
    for node in list(graph.nodes):
        if node.target is not _aten.to.dtype or node.args[0].meta["val"].dtype != node.args[1]:
            continue
        if all(user.op == "call_function" for user in node.users):  # the program's results keep their names
            node.replace_all_uses_with(node.args[0])
    graph.eliminate_dead_code()


def _stands(node: torch.fx.Node) -> bool:
    if node.op != "call_function":
        return True
    return node.target in _AS_THEY_STAND or getattr(node.target, "namespace", "") in _OWN
