"""Names of the network's nodes: ``transformer.layers.0.mlp.fc/MatMul`` says the module and the operator, and is found
again in whatever name an engine gives to a fusion of such nodes."""

from __future__ import annotations

import re
from collections.abc import Iterable

ROOT = "decoder"
"""The module of nodes that belong to no part: masks, positions, the sum of embeddings."""

# ``a.b/Op``, ``a.b/Op_2``; a result (``a.b/Op:0``) names its node.
_NODE = re.compile(r"(?<![\w./])([A-Za-z_]\w*(?:\.\w+)*/[A-Za-z]\w*)(?::\d+)?(?![\w/])")
_LAYER = re.compile(r"(?<=layers\.)\d+(?=\.|$)")


def node_name(module: str, op_type: str) -> str:
    """Return the name of the first node of `op_type` in a module; later ones get ``_2``, ``_3`` …"""
    return f"{module or ROOT}/{op_type}"


def module_of_node(name: str) -> str | None:
    """Return the module that a node or tensor name tells, or None where it tells none."""
    found = _NODE.fullmatch(name.strip())
    if found is not None:
        return found.group(1).partition("/")[0]
    weight = name.partition(":")[0]
    return weight.rpartition(".")[0] if weight.startswith(("transformer.", "lm_head.")) else None


def nodes_in(text: str) -> tuple[str, ...]:
    """Return the names of our nodes that stand in a name that was made of them, each once, in order.

    Made names are ``a/MatMul + a/Add``, ``[MatMul] a/MatMul``, ``{ForeignNode[a/Add...b/MatMul]}``, ``Reformatting
    CopyNode for Input Tensor 0 to a/MatMul`` and the like.
    """
    apart = text.replace("...", " ")
    return tuple(dict.fromkeys(_NODE.findall(apart)))


def common_module(modules: Iterable[str]) -> str | None:
    """Return the innermost module that holds all of `modules`, or None where there is none."""
    paths = [module.split(".") for module in modules]
    if not paths:
        return None
    shared: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared) or ROOT


def layer_number(module: str | None) -> int | None:
    """Return the number of the decoder layer that a module lies in, or None outside of the layers."""
    found = _LAYER.search(module or "")
    return int(found.group()) if found else None


def module_group(module: str | None) -> str:
    """Return a module's name with its layer's number left out: the same part of all layers."""
    return _LAYER.sub("*", module) if module else "not attributed"
