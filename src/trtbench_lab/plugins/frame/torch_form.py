"""The first form of a plugin: a torch op, with the reference behind it on a CPU and the kernel on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.library import Library, register_fake

from . import triton_form
from .call import Operand

if TYPE_CHECKING:
    from .plugin import Plugin

LIBRARY = "trtbench_plugins"
_TYPES = {int: "int", float: "float"}
_fragments: dict[str, Library] = {}


def define(plugin: Plugin) -> None:
    """Make ``torch.ops.trtbench_plugins.{name}``; a second definition of a name takes the place of the first."""
    earlier = _fragments.pop(plugin.name, None)
    if earlier is not None:  # a notebook's cell that is run again
        earlier._destroy()
    fragment = _fragments[plugin.name] = Library(LIBRARY, "FRAGMENT")
    fragment.define(_schema(plugin))

    def split(arguments: tuple[Any, ...]) -> tuple[tuple[torch.Tensor, ...], dict[str, Any]]:
        count = len(plugin.inputs)
        return arguments[:count], dict(zip(plugin.attributes, arguments[count:], strict=True))

    def on_cpu(*arguments: Any) -> Any:
        tensors, attributes = split(arguments)
        return plugin.reference(*tensors, **attributes)

    def on_gpu(*arguments: Any) -> Any:
        tensors, attributes = split(arguments)
        if not triton_form.has_triton():
            return plugin.reference(*tensors, **attributes)
        return own_results(plugin, triton_form.launch(plugin, tensors, attributes))

    def fake(*arguments: Any) -> Any:
        tensors, attributes = split(arguments)
        results = plugin.results([operand_of(tensor) for tensor in tensors], attributes)
        made = [tensors[0].new_empty(one.shape, dtype=dtype_of(one.dtype)) for one in results]
        return own_results(plugin, tuple(made) if len(made) > 1 else made[0])

    fragment.impl(plugin.name, on_cpu, "CPU")
    fragment.impl(plugin.name, on_gpu, "CUDA")
    register_fake(f"{LIBRARY}::{plugin.name}", fake, lib=fragment)


def own_results(plugin: Plugin, results: Any) -> Any:
    """Drop those results that alias an input: an op does not return them."""
    if not plugin.aliases:
        return results
    whole = results if isinstance(results, tuple) else (results,)
    own = tuple(one for one, alias in zip(whole, plugin.aliased_inputs, strict=True) if alias is None)
    return None if not own else own[0] if len(own) == 1 else own


def operand_of(tensor: torch.Tensor) -> Operand:
    """Return the shape and type of a tensor."""
    return Operand(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def dtype_of(name: str) -> torch.dtype:
    """Return torch's type of that name."""
    return getattr(torch, name)  # type: ignore[no-any-return]


def _schema(plugin: Plugin) -> str:
    changed = set(plugin.aliases.values())
    parameters = [
        f"Tensor({chr(ord('a') + number)}!) {name}" if name in changed else f"Tensor {name}"
        for number, name in enumerate(plugin.inputs)
    ]
    parameters += [f"{_TYPES[kind]} {name}" for name, kind in plugin.attributes.items()]
    own = len(plugin.outputs) - len(plugin.aliases)
    returns = "Tensor" if own == 1 else f"({', '.join(['Tensor'] * own)})"
    return f"{plugin.name}({', '.join(parameters)}) -> {returns}"
