"""Inputs for each of the plugins that work row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from trtbench_lab.plugins import gated, lookup, norms, quantizing
from trtbench_lab.plugins.frame import Plugin

PLUGINS = {one.name: one for module in (norms, quantizing, gated, lookup) for one in module.PLUGINS}
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def inputs(
    plugin: Plugin, shape: Sequence[int], dtype: torch.dtype, seed: int = 0, device: str = "cpu"
) -> list[torch.Tensor]:
    """Return tensors for a call over ``shape`` = (…, width)."""
    random = torch.Generator(device).manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=random, device=device).to(dtype)

    made = {
        "x": lambda: 3 * normal(*shape),
        "residual": lambda: normal(*shape),
        "gate": lambda: normal(*shape),
        "weight": lambda: 1 + 0.1 * normal(shape[-1]),
        "bias": lambda: normal(shape[-1]),
        "scale": lambda: torch.full((1,), 0.02, device=device),
        "table": lambda: normal(11, shape[-1]),
        # Ids below, inside and above the rows 7 … 17 that the table holds.
        "ids": lambda: torch.randint(0, 25, tuple(shape[:-1]), generator=random, device=device),
    }
    return [made[name]() for name in plugin.inputs]


def attributes(plugin: Plugin) -> dict[str, Any]:
    """Return values for a plugin's attributes."""
    return {name: {"epsilon": 1e-5, "first_row": 7}[name] for name in plugin.attributes}
