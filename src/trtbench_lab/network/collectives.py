"""Collectives of an exported network: nodes of TensorRT's own operator, with functions that keep the shapes for others.

A file holds one rank. Where ranks talk, TensorRT runs NCCL; a reader without collectives runs the node's function,
which puts the rank's own part in the place of everybody's. Shapes are then right and values are one rank's: enough to
look at the network, and no result of the model.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir
import torch

from ..plugins.function_node import function_node
from .ops import TENSORRT_DOMAIN

OP_TYPE = "DistCollective"
_PREFIX = "ranks_"


class ExportedRanks:
    """The `Communicator` of a decoder that is being exported.

    Parameters
    ----------
    num_ranks
        Ranks of the tensor-parallel group, which the engine's communicator is made of.
    """

    def __init__(self, num_ranks: int):
        self.num_ranks = num_ranks

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Record a sum over the ranks."""
        return self._node(x, x, "all_reduce", "sum")

    def all_gather(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """Record a concatenation along `dim`; TensorRT has it along the first dimension only."""
        order = [dim % x.ndim, *(axis for axis in range(x.ndim) if axis != dim % x.ndim)]
        first = x.permute(order)
        like = first.new_empty((self.num_ranks * first.shape[0], *first.shape[1:]))
        return self._node(first, like, "all_gather", "none").permute([order.index(axis) for axis in range(x.ndim)])

    def _node(self, x: torch.Tensor, like: torch.Tensor, operation: str, reduce_op: str) -> torch.Tensor:
        attributes: dict[str, int | str] = {
            "collective_operation": operation,
            "reduce_op": reduce_op,
            "root": 0,
            "group_size": 0,
            "nb_rank": self.num_ranks,
        }
        return function_node(f"{TENSORRT_DOMAIN}::{OP_TYPE}", [x], attributes, like)


def name_variants(graph: ir.Graph) -> None:
    """Give each collective the overload that its function has: one name cannot have two bodies."""
    for node in graph:
        if node.op_type == OP_TYPE:
            operation = node.attributes["collective_operation"].as_string()
            node.overload = f"{operation}_{_PREFIX}{node.attributes['nb_rank'].as_int()}"


def function_of(overload: str) -> onnx.FunctionProto:
    """Return the function behind the collectives of one overload."""
    operation, _, count = overload.rpartition(f"_{_PREFIX}")
    if operation == "all_gather":
        body = onnx.helper.make_node("Concat", ["x"] * int(count), ["y"], axis=0)
    else:
        body = onnx.helper.make_node("Identity", ["x"], ["y"])
    function = onnx.helper.make_function(
        TENSORRT_DOMAIN,
        OP_TYPE,
        ["x"],
        ["y"],
        [body],
        [onnx.helper.make_opsetid("", 24)],
        attributes=["collective_operation", "reduce_op", "root", "group_size", "nb_rank"],
    )
    function.overload = overload
    return function
