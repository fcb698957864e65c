"""Conversions between number types in Triton's interpreter, made exact.

Triton 3.6 keeps bfloat16 and float8 there as bits and converts them by hand: results are cut off instead of rounded, a
carry is lost, and integers become wrong bits. Kernels are held to the last bit, so torch converts instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def exact_numbers() -> Iterator[None]:
    """Let interpreted kernels round to the nearest, ties to even, as GPUs do."""
    import triton.language as tl
    from triton.runtime import interpreter

    types = {
        tl.float32: torch.float32,
        tl.float16: torch.float16,
        tl.bfloat16: torch.bfloat16,
        tl.float8e4nv: torch.float8_e4m3fn,
        tl.float8e5: torch.float8_e5m2,
    }
    builder = interpreter.InterpreterBuilder
    convert, cast = interpreter._convert_float, builder.cast_impl

    def exact(data: Any, source: Any, target: Any, rounding: Any) -> Any:
        if source not in types or target not in types:
            return convert(data, source, target, rounding)
        wide = torch.from_numpy(data.copy()).view(types[source]).float()
        if target is tl.float8e4nv:  # a GPU saturates where torch gives NaN
            wide = torch.where(wide.isnan(), wide, wide.clamp(-448.0, 448.0))
        return wide.to(types[target]).view(getattr(torch, f"uint{target.primitive_bitwidth}")).numpy()

    def cast_impl(self: Any, source: Any, target: Any) -> Any:
        """Take bfloat16 from and to integers by way of float32."""
        kinds = source.dtype.scalar, target.scalar
        if tl.bfloat16 in kinds and not (kinds[0].is_floating() and kinds[1].is_floating()):
            middle = target if kinds[0].is_floating() else tl.float32
            if kinds[0].is_floating():
                source = cast(self, source, tl.float32)
                return cast(self, source, middle)
            source = cast(self, source, middle)
        return cast(self, source, target)

    interpreter._convert_float = exact
    builder.cast_impl = cast_impl
    try:
        yield
    finally:
        interpreter._convert_float = convert
        builder.cast_impl = cast
