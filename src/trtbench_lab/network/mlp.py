"""The feed-forward block: ``proj(act(fc(x)))``, or gated ``proj(act(fc(x)) · gate(x))``."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from ..plugins.frame import Plugin
from ..plugins.gated import GEGLU, GEGLU_TANH, SWIGLU
from .linear import Linear


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


def _squared_relu(x: torch.Tensor) -> torch.Tensor:
    return F.relu(x).square()


# GPT-2's "gelu_new" writes out the tanh formula that F.gelu(approximate="tanh") computes.
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": F.relu,
    "silu": F.silu,
    "squared_relu": _squared_relu,
}
GATED_PLUGINS: dict[str, Plugin] = {
    "silu": SWIGLU,
    "gelu": GEGLU,
    **dict.fromkeys(("gelu_tanh", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"), GEGLU_TANH),
}


class Mlp(nn.Module):
    """`fc` is the activated projection (Hugging Face's gate_proj), `gate` the other factor (up_proj).

    Parameters
    ----------
    fc, proj, gate
        The projections; `gate` is None where there is none.
    hidden_act
        The activation.
    use_plugin
        Compute activation and product with a plugin, where one has this activation.
    """

    def __init__(self, fc: Linear, proj: Linear, gate: Linear | None, hidden_act: str, *, use_plugin: bool = False):
        super().__init__()
        self.fc, self.proj = fc, proj
        if gate is not None:
            self.gate = gate
        self.gated = gate is not None
        self.activation = ACTIVATIONS[hidden_act]
        self.plugin = GATED_PLUGINS.get(hidden_act) if use_plugin and self.gated else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.plugin is not None:
            return self.proj(self.plugin(self.fc(x), self.gate(x)))
        wide = self.activation(self.fc(x))
        if self.gated:
            wide = wide * self.gate(x)
        return self.proj(wide)
