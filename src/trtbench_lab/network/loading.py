"""Give a decoder its tensors, by name and without a copy."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ..errors import CheckpointError


def assign_tensors(decoder: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Make `tensors` the parameters and tables of `decoder`, as they are: no copy, no conversion.

    Parameters
    ----------
    decoder
        Usually made on the meta device; keeps its own tensors where `tensors` names none.
    tensors
        Parameters and buffers by name; memory-mapped ones stay so.

    Raises
    ------
    CheckpointError
        When a name or a shape is not the decoder's.
    """
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        try:
            module = decoder.get_submodule(path)
            current = getattr(module, leaf)
        except AttributeError as error:
            raise CheckpointError(
                "The network has no such tensor.", where=name, remedy="Weights and config.json do not belong together."
            ) from error
        if current.shape != tensor.shape:
            raise CheckpointError(
                f"The tensor has shape {tuple(tensor.shape)}; the network takes {tuple(current.shape)}.",
                where=name,
                remedy="Weights and config.json do not belong together.",
            )
        if leaf in module._buffers:
            module._buffers[leaf] = tensor
        else:
            module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)


def kept_types(decoder: nn.Module) -> dict[str, torch.dtype]:
    """Return the tensors that keep a type of their own whatever is computed in, with that type.

    They are integers, FP8 weights, and steps whose last bits decide how something is rounded: each module names its own
    in ``keeps``.
    """
    found: dict[str, torch.dtype] = {}
    for path, module in decoder.named_modules():
        for leaf in getattr(module, "keeps", ()):
            if isinstance(tensor := getattr(module, leaf, None), torch.Tensor):
                found[f"{path}.{leaf}" if path else leaf] = tensor.dtype
    return found


def cast_floats(decoder: nn.Module, dtype: torch.dtype) -> None:
    """Turn every parameter and table into `dtype`, but for those that keep their own."""
    kept = kept_types(decoder)
    named = [*decoder.named_parameters(), *decoder.named_buffers()]
    assign_tensors(decoder, {name: value.to(dtype) for name, value in named if name not in kept})
