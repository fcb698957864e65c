"""What TensorRT's bindings say of themselves: signatures from their docstrings, and which values fit them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from .stubs import bindings


class ContractError(AttributeError, TypeError):
    """The backend used TensorRT in a way that its bindings do not know."""


@dataclass(frozen=True)
class Parameter:
    name: str
    annotation: str
    default: str | None


@dataclass(frozen=True)
class Signature:
    """One overload: its parameters without `self`, and the type it returns."""

    text: str
    parameters: tuple[Parameter, ...]
    returns: str

    def bound(self, args: Sequence[Any], kwargs: dict[str, Any], real: Callable[[str], Any]) -> dict[str, Any] | str:
        """Return parameter name → value, or the sentence that says why the call does not fit."""
        if len(args) > len(self.parameters):
            return f"takes {len(self.parameters)} arguments, {len(args)} given"
        values = dict(zip((one.name for one in self.parameters), args, strict=False))
        for name, value in kwargs.items():
            if name in values:
                return f"got {name} twice"
            if name not in {one.name for one in self.parameters}:
                return f"has no parameter {name!r}"
            values[name] = value
        for one in self.parameters:
            if one.name not in values:
                if one.default is None:
                    return f"lacks {one.name}"
                continue
            value = values[one.name]
            if not (value is None and one.default == "None") and not fits(value, one.annotation, real):
                return f"takes {one.annotation} for {one.name}, not {type(value).__name__}"
        return values


def plain(annotation: str) -> str:
    """Strip module and namespace prefixes: what remains is a name of the bindings, or of Python."""
    stripped = re.sub(r"tensorrt(_bindings)?\.tensorrt\.|nv\w+::(?:v_\d_\d::)?", "", annotation).strip()
    return {"IParserError": "ParserError"}.get(stripped, stripped)  # the one class with two names


@cache
def parse_signatures(doc: str, name: str) -> tuple[Signature, ...]:
    """Return every overload that a docstring lists."""
    found = []
    for line in doc.splitlines():
        match = re.match(rf"\s*(?:\d+\. )?{re.escape(name)}(\(.*\)) -> (.+)$", line)
        if match is None or "*args, **kwargs" in line:
            continue
        parameters = []
        for part in _split(match.group(1)[1:-1]):
            declared, _, default = part.partition(" = ")
            parameter, _, annotation = declared.partition(":")
            parameters.append(Parameter(parameter.strip(), plain(annotation), default.strip() or None))
        own = parameters[1:] if parameters and parameters[0].name == "self" else parameters
        found.append(Signature(plain(line.strip()), tuple(own), plain(match.group(2))))
    return tuple(found)


def property_type(member: property, *, setting: bool = False) -> str | None:
    """Return what a property is (or takes), None where it cannot be read (or set)."""
    function = member.fset if setting else member.fget
    if function is None:
        return None
    doc = function.__doc__ or ""
    if setting:
        match = re.search(r"arg1: (.+?)\) -> None", doc)
        if match is None and member.fget is not None:  # a setter that says nothing takes what the getter gives
            return property_type(member)
    else:
        match = re.search(r"-> (.+)$", doc.splitlines()[0] if doc else "")
    return plain(match.group(1)) if match else "object"


def fits(value: Any, annotation: str, real: Callable[[str], Any]) -> bool:
    """Whether `value` is what the bindings take for `annotation`; `real` gives the class of a name."""
    if annotation.endswith(" | None"):
        return value is None or fits(value, annotation.removesuffix(" | None"), real)
    sequence = re.fullmatch(r"(?:collections\.abc\.(?:Sequence|Iterable)|list)\[(.+)\]", annotation)
    if sequence is not None:
        return isinstance(value, list | tuple) and all(fits(item, sequence.group(1), real) for item in value)
    if annotation.startswith("tuple["):
        return isinstance(value, tuple)
    if annotation in _PLAIN:
        return _PLAIN[annotation](value)
    if annotation.startswith("collections.abc.Callable"):
        return callable(value)
    if annotation == "FallbackString":
        return isinstance(value, str)
    kind = real(annotation)
    if annotation == "Dims" and isinstance(value, list | tuple):  # converted by the bindings
        return all(_PLAIN["int"](item) for item in value)
    return isinstance(value, kind)


def overridden_faults(instance: Any, base: type) -> list[str]:
    """Return what is wrong with the methods by which a subclass answers TensorRT's calls."""
    faults = []
    for name, function in vars(type(instance)).items():
        if name.startswith("_") or not inspect.isfunction(function):
            continue
        arguments = CALLBACKS.get((base.__name__, name))
        if arguments is None:
            documented = parse_signatures(getattr(getattr(base, name, None), "__doc__", None) or "", name)
            if not documented:
                faults.append(f"{base.__name__} never calls {name!r}")
                continue
            arguments = len(documented[0].parameters)
        try:
            inspect.signature(function).bind(instance, *range(arguments))
        except TypeError as error:
            faults.append(f"{base.__name__}.{name} is called with {arguments} arguments: {error}")
    return faults


# Callbacks whose docstring is silent, or gives the C++ arguments where the wrapper passes others.
CALLBACKS = {
    ("IStreamWriter", "write"): 1,
    ("IStreamReaderV2", "read"): 2,
    ("IStreamReaderV2", "seek"): 2,
    ("IOutputAllocator", "reallocate_output"): 4,
    ("IOutputAllocator", "reallocate_output_async"): 5,
    ("IOutputAllocator", "notify_shape"): 2,
    ("IGpuAllocator", "allocate"): 3,
    ("IGpuAllocator", "deallocate"): 1,
    ("IGpuAllocator", "reallocate"): 3,
}

_PLAIN: dict[str, Callable[[Any], bool]] = {
    "int": lambda value: isinstance(value, int | np.integer) and not isinstance(value, bool),
    "typing.SupportsInt": lambda value: _PLAIN["int"](value),
    "float": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "typing.SupportsFloat": lambda value: _PLAIN["float"](value),
    "bool": lambda value: isinstance(value, bool),
    "str": lambda value: isinstance(value, str),
    "bytes": lambda value: isinstance(value, bytes),
    "tuple": lambda value: isinstance(value, tuple),
    "list": lambda value: isinstance(value, list),
    "object": lambda value: True,
    "None": lambda value: value is None,
    "numpy.ndarray": lambda value: isinstance(value, np.ndarray),
    "typing_extensions.Buffer": lambda value: _is_buffer(value),
    "collections.abc.Buffer": lambda value: _is_buffer(value),  # from Python 3.12 on
    "typing_extensions.CapsuleType": lambda value: type(value).__name__ == "PyCapsule",
    "types.CapsuleType": lambda value: type(value).__name__ == "PyCapsule",  # from Python 3.13 on
}


def _is_buffer(value: Any) -> bool:
    try:
        memoryview(value)
    except TypeError:
        return False
    return True


def _split(text: str) -> list[str]:
    """Split at the commas that stand in no bracket."""
    parts, depth, start = [], 0, 0
    for position, letter in enumerate(text):
        if letter in "[(<":
            depth += 1
        elif letter in "])>":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def core() -> Any:
    """Return the extension module with every class and enum."""
    return bindings().tensorrt
