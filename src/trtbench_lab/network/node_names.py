"""Names of the network's nodes: ``transformer.layers.0.mlp.fc/MatMul`` says the module and the operator, and is found
again in whatever name an engine gives to a fusion of such nodes."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

ROOT = "decoder"
"""The module of nodes that belong to no part: masks, positions, the sum of embeddings."""

# ``a.b/Op``, ``a.b/Op_2``; a result (``a.b/Op:0``) names its node.
_NODE = re.compile(r"(?<![\w./])([A-Za-z_]\w*(?:\.\w+)*/[A-Za-z]\w*)(?::\d+)?(?![\w/])")
_LAYER = re.compile(r"(?<=layers\.)\d+(?=\.|$)")

_PART = re.compile(r"(transformer\.layers\.\d+)(\.attention|\.mlp)?(?=\.|$)|transformer\.ln_f$")


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


def parts_of(module: str) -> tuple[str, ...]:
    """Return the parts of the model that a module lies in: its layer and that one's attention or feed-forward block.

    ``transformer.ln_f`` is a part as well; other modules lie in none.
    """
    found = _PART.match(module)
    if found is None:
        return ()
    return (found.group(),) if found.group(2) is None else (found.group(1), found.group())


def output_nodes(node_names: Iterable[str]) -> dict[str, str]:
    """Return part (see `parts_of`) → the node that gives its output.

    Nodes stand in the order of computation, so attention and feed-forward block end with the last node that lies in
    them. A layer ends with its own last sum; where a norm plugin takes the sum in, the layer is left out.
    """
    found: dict[str, str] = {}
    for name in node_names:
        module = module_of_node(name) or ""
        for part in parts_of(module):
            if part == module or not part[-1].isdigit():
                found[part] = name
    return {part: found[part] for part in sorted(found, key=part_order)}


def part_order(part: str) -> tuple[int, int]:
    """Return a key that sorts parts as they are computed: attention, feed-forward, the layer; the last norm last."""
    layer = layer_number(part)
    if layer is None:
        return sys.maxsize, 0
    return layer, ("attention", "mlp").index(part.rpartition(".")[2]) if not part[-1].isdigit() else 2
