"""The parameter list of a kernel in PTX text: read it, and take off the pointers that Triton adds for itself.

Triton ends every kernel with two 64-bit pointers of its own (global scratch and profile scratch). TensorRT passes the
plugin's inputs, its int32 arguments and its outputs, and nothing after them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import BuildError

POINTER, INT32 = "u64", "u32"
_PARAMETER = re.compile(r"\.param\s+((?:\.\w+\s+|\d+\s+)*)([\w$]+)\s*$")


@dataclass(frozen=True)
class Entry:
    """A kernel's head.

    Attributes
    ----------
    name
        The kernel's name.
    parameters
        (name, type) of each parameter, the type as in ``u64``.
    """

    name: str
    parameters: tuple[tuple[str, str], ...]

    @property
    def types(self) -> list[str]:
        """Types of the parameters in order."""
        return [kind for _, kind in self.parameters]


def parse_entry(ptx: str) -> Entry:
    """Return the head of the only kernel in `ptx`.

    Raises
    ------
    BuildError
        When there is not exactly one kernel, or a parameter that is no number or pointer.
    """
    name, start, end = _head(ptx)
    parameters = []
    for text in filter(None, (part.strip() for part in ptx[start:end].split(","))):
        match = _PARAMETER.match(text)
        if match is None:
            raise BuildError(f"A kernel's parameter is not understood: {text!r}.", where=name)
        parameters.append((match[2], match[1].split()[0].lstrip(".")))
    return Entry(name, tuple(parameters))


def strip_trailing_pointers(ptx: str, count: int) -> str:
    """Remove the last `count` parameters, which must be pointers that the kernel never reads.

    Raises
    ------
    BuildError
        When one of them is no pointer or is read.
    """
    entry = parse_entry(ptx)
    keep = len(entry.parameters) - count
    for parameter, kind in entry.parameters[keep:]:
        used = len(re.findall(rf"\b{re.escape(parameter)}\b", ptx)) > 1
        if kind != POINTER or used:
            raise BuildError(
                f"Parameter {parameter} ({kind}) {'is read by the kernel' if used else 'is no pointer'}.",
                where=entry.name,
                remedy="TensorRT cannot pass it: write the kernel without scratch memory, or use another Triton.",
            )
    _, start, end = _head(ptx)
    parts = ptx[start:end].rstrip().split(",")
    return ptx[:start] + ",".join(parts[:keep]) + "\n" + ptx[end:]


def check_entry(ptx: str, name: str, inputs: int, arguments: Sequence[str], outputs: int) -> None:
    """Demand the parameter list that TensorRT launches with: input pointers, int32 arguments, output pointers.

    Raises
    ------
    BuildError
        When the kernel has another one.
    """
    entry = parse_entry(ptx)
    wanted = [POINTER] * inputs + [INT32] * len(arguments) + [POINTER] * outputs
    if entry.name != name or entry.types != wanted:
        raise BuildError(
            f"Kernel {entry.name} takes {entry.types} where TensorRT passes {wanted}.",
            where=name,
            remedy="Order the kernel's parameters: inputs, int32 arguments, outputs, constants.",
        )


def _head(ptx: str) -> tuple[str, int, int]:
    """Name of the only kernel, and where its parameter list starts and ends."""
    found = list(re.finditer(r"\.entry\s+([\w$]+)\s*\(", ptx))
    if len(found) != 1:
        raise BuildError(f"{len(found)} kernels in one PTX text, where one was expected.", where="plugin")
    start = found[0].end()
    return found[0][1], start, ptx.index(")", start)
