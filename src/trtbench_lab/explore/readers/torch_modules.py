"""A decoder's modules as layers: what an engine of the torch backend is before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..dtypes import dtype_name
from ..kinds import kind_of
from ..layer import Layer
from ..reading import Reading

if TYPE_CHECKING:
    import torch


def read_modules(decoder: torch.nn.Module) -> Reading:
    """Return the modules that compute (those with parameters of their own, and attention) as layers, without times."""
    layers = []
    for name, module in decoder.named_modules():
        own = list(module.parameters(recurse=False))
        kind = kind_of(type(module).__name__, type(module).__name__)
        if not own and kind != "attention":
            continue
        kind = "matmul" if "Linear" in type(module).__name__ else kind
        heaviest = max(own, key=lambda parameter: parameter.nbytes) if own else None
        layers.append(
            Layer(
                name=name,
                type=type(module).__name__,
                kind=kind,
                module=name,
                weights_bytes=sum(parameter.nbytes for parameter in own),
                weights_dtype=dtype_name(str(heaviest.dtype).removeprefix("torch.")) if heaviest is not None else None,
            )
        )
    note = "Modules are shown, without operators or times: --profile runs the engine and shows both."
    return Reading(form="modules of the torch backend", backend="torch", layers=tuple(layers), notes=[note])


def parameters_of(decoder: torch.nn.Module) -> dict[str, tuple[int, str]]:
    """Return module → bytes and main element type of its own parameters."""
    found = {}
    for name, module in decoder.named_modules():
        own = list(module.parameters(recurse=False))
        if own:
            heaviest = max(own, key=lambda parameter: parameter.nbytes)
            dtype = str(heaviest.dtype).removeprefix("torch.")
            found[name] = sum(parameter.nbytes for parameter in own), dtype
    return found
