"""What a plugin says about one call: its operands, its results, and the kernel launch that computes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import SpecError
from .sizes import Size, constant, is_expression, product

Attributes = Mapping[str, Any]
"""Values of a plugin's attributes: int or float."""


@dataclass(frozen=True)
class Operand:
    """Shape and type of one tensor of a call.

    Attributes
    ----------
    shape
        Extents: numbers, or expressions where they are not known yet.
    dtype
        Torch's name of the type, for example ``"float16"``.
    """

    shape: tuple[Size, ...]
    dtype: str

    def fixed(self, axis: int) -> int:
        """Return an extent that has to be a number, see `sizes.constant`."""
        return constant(self.shape[axis], f"dimension {axis} of the operand")

    def demand(self, name: str, *shape: Size) -> None:
        """Raise `SpecError` unless these are the extents: kernels broadcast nothing, and would read beyond the end.

        Extents that are not known yet are taken to fit.
        """
        known = [pair for pair in zip(self.shape, shape, strict=False) if not any(is_expression(one) for one in pair)]
        if len(self.shape) != len(shape) or any(own != wanted for own, wanted in known):
            raise SpecError(
                f"{name} has the extents {self.shape} where the kernel reads {shape}.",
                where="plugin",
                remedy="Pass tensors that belong together; nothing is broadcast.",
            )

    @property
    def rows(self) -> Size:
        """Product of all extents but the last."""
        return product(self.shape[:-1])

    @property
    def numel(self) -> Size:
        """Product of all extents."""
        return product(self.shape)


@dataclass(frozen=True)
class Call:
    """One call of a plugin, as its `plan` sees it.

    Attributes
    ----------
    inputs, outputs
        Operands in order; an output that aliases an input appears among both.
    attributes
        Name → value.
    compute_capability
        Of the GPU, as 90 for 9.0.
    tactic
        Which of the plugin's `tactics`; 0 leaves it to the plan.
    """

    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    attributes: Attributes
    compute_capability: int
    tactic: int = 0


@dataclass(frozen=True)
class Launch:
    """One launch of a Triton kernel.

    The kernel's parameters stand in this order: a pointer for each input, the int32 `arguments`, a pointer for each
    output (aliased ones too), then the constants.

    Attributes
    ----------
    kernel
        Name of the function in the plugin's kernel module.
    grid
        One to three extents.
    arguments
        Values of the int32 parameters by name: numbers or expressions.
    constants
        Values of the ``tl.constexpr`` parameters.
    num_warps, num_stages
        Options of the compiler.
    """

    kernel: str
    grid: tuple[Size, ...]
    arguments: Mapping[str, Size] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 3
