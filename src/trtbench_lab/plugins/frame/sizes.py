"""Arithmetic of extents that works on numbers, on torch's symbols and on TensorRT's shape expressions alike.

A plugin writes its output shapes, grids and integer arguments once, with ``+ - * //`` and these functions. TensorRT's
expressions stand on the left of an operator only (``rows * 2``, never ``2 * rows``) and have no other operators.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from ...errors import BuildError

Size: TypeAlias = Any
"""An int, a ``torch.SymInt`` or a ``tensorrt.plugin.ShapeExpr``."""


def is_expression(size: Size) -> bool:
    """Whether `size` is one of TensorRT's expressions."""
    return hasattr(size, "is_constant")


def cdiv(first: Size, second: Size) -> Size:
    """Return ``ceil(first / second)``."""
    if is_expression(first) or is_expression(second):
        import tensorrt.plugin as trtp

        return trtp.cdiv(first, second)
    return -(-first // second)


def maximum(first: Size, second: Size) -> Size:
    """Return the greater of two sizes."""
    if is_expression(first) or is_expression(second):
        import tensorrt.plugin as trtp

        return trtp.max(first, second)
    return max(first, second)


def minimum(first: Size, second: Size) -> Size:
    """Return the smaller of two sizes."""
    if is_expression(first) or is_expression(second):
        import tensorrt.plugin as trtp

        return trtp.min(first, second)
    return min(first, second)


def product(sizes: Iterable[Size]) -> Size:
    """Return the product: numbers first among themselves, since expressions have to be on the left."""
    number, expression = 1, None
    for size in sizes:
        if is_expression(size):
            expression = size if expression is None else expression * size
        else:
            number = number * size
    if expression is None:
        return number
    return expression if isinstance(number, int) and number == 1 else expression * number


def power_of_two(number: int) -> int:
    """Return the smallest power of two that is at least `number`."""
    return 1 << max(0, number - 1).bit_length()


def constant(size: Size, what: str) -> int:
    """Return an extent that a kernel is compiled for.

    Raises
    ------
    BuildError
        When the extent is not known while the engine is built.
    """
    if is_expression(size):
        raise BuildError(
            f"{what} must be a constant, since the plugin's kernel is compiled for it.",
            where="plugin",
            remedy="Give that dimension a number in the network.",
        )
    return int(size)
