"""The feed-forward block: ``proj(act(fc(x)))``, or gated ``proj(act(fc(x)) · gate(x))``."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

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


class Mlp(nn.Module):
    """`fc` is the activated projection (Hugging Face's gate_proj), `gate` the other factor (up_proj)."""

    def __init__(self, fc: Linear, proj: Linear, gate: Linear | None, hidden_act: str):
        super().__init__()
        self.fc, self.proj = fc, proj
        if gate is not None:
            self.gate = gate
        self.gated = gate is not None
        self.activation = ACTIVATIONS[hidden_act]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = self.activation(self.fc(x))
        if self.gated:
            wide = wide * self.gate(x)
        return self.proj(wide)
