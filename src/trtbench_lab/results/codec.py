"""Plain data from dataclasses and back, strictly: JSON-ready out, checked types in."""

from __future__ import annotations

import dataclasses
import enum
import math
import types
import typing
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from ..errors import ResultsError, did_you_mean

_NON_FINITE = "$float"  # JSON has no NaN and no infinity; {"$float": "nan"} keeps them and stays valid everywhere


def encode(value: Any, *, where: str = "value") -> Any:
    """Return `value` as JSON-ready data.

    Takes None, bool, int, float, str, enums, paths, dataclasses, mappings with text keys, sequences, and anything
    with ``tolist()`` (NumPy and torch arrays and scalars).

    Raises
    ------
    ResultsError
        For anything else, naming where it stands.
    """
    if isinstance(value, enum.Enum):
        return encode(value.value, where=where)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {_NON_FINITE: str(float(value))}
    if isinstance(value, PurePath):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name), where=f"{where}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ResultsError(f"The key {key!r} is not text.", where=where, remedy="Use text as keys.")
        return {str(key): encode(item, where=f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item, where=f"{where}[{i}]") for i, item in enumerate(value)]
    if callable(getattr(value, "tolist", None)):
        return encode(value.tolist(), where=where)
    raise ResultsError(
        f"A value of type {type(value).__name__} cannot be stored in a result.",
        where=where,
        remedy="Keep numbers, text, lists, dictionaries and dataclasses of these.",
    )


def decode(expected: Any, data: Any, *, where: str = "value") -> Any:
    """Return `data` as a value of type `expected`, checking every field on the way.

    Raises
    ------
    ResultsError
        For unknown or missing fields and for values of another type.
    """
    if isinstance(data, Mapping) and set(data) == {_NON_FINITE}:
        data = float(data[_NON_FINITE])
    if dataclasses.is_dataclass(expected) and isinstance(expected, type):
        return _decode_dataclass(expected, data, where)
    origin = typing.get_origin(expected)
    arguments = typing.get_args(expected)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(arguments, data, where)
    if origin is typing.Literal:
        if data in arguments:
            return data
        raise _mistyped(expected, data, where)
    if origin in (list, tuple) or expected in (list, tuple):
        return _decode_sequence(origin or expected, arguments, data, where)
    if origin in (dict, Mapping) or expected is dict:
        if not isinstance(data, Mapping):
            raise _mistyped(expected, data, where)
        inner = arguments[1] if len(arguments) == 2 else Any
        return {key: decode(inner, item, where=f"{where}.{key}") for key, item in data.items()}
    return _decode_leaf(expected, data, where)


def _decode_leaf(expected: Any, data: Any, where: str) -> Any:
    if expected is Any or expected is object:
        return _revived(data)
    if expected is float and isinstance(data, int | float) and not isinstance(data, bool):
        return float(data) if isinstance(data, float) else data
    if expected is int and isinstance(data, int) and not isinstance(data, bool):
        return data
    if expected is type(None) and data is None:
        return None
    if isinstance(expected, type) and issubclass(expected, enum.Enum):
        try:
            return expected(data)
        except ValueError:
            raise _mistyped(expected, data, where) from None
    if isinstance(expected, type) and issubclass(expected, PurePath) and isinstance(data, str):
        return expected(data)
    if expected in (bool, str) and type(data) is expected:
        return data
    raise _mistyped(expected, data, where)


def _decode_dataclass(owner: type, data: Any, where: str) -> Any:
    if not isinstance(data, Mapping):
        raise _mistyped(owner, data, where)
    fields = {f.name: f for f in dataclasses.fields(owner) if f.init}
    hints = typing.get_type_hints(owner)
    for key in data:
        if key not in fields:
            remedy = did_you_mean(str(key), list(fields)) + " A newer version may have written it."
            raise ResultsError(f"Unknown field {key!r} of {owner.__name__}.", where=where, remedy=remedy)
    values = {}
    for name, item in fields.items():
        if name in data:
            values[name] = decode(hints[name], data[name], where=f"{where}.{name}")
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise ResultsError(
                f"The field {name!r} of {owner.__name__} is missing.", where=where, remedy="The data is incomplete."
            )
    return owner(**values)


def _decode_union(choices: tuple[Any, ...], data: Any, where: str) -> Any:
    if data is None and type(None) in choices:
        return None
    # int before float, so that 3 stays 3 in a field of `float | int`.
    real = sorted((choice for choice in choices if choice is not type(None)), key=lambda choice: choice is float)
    if len(real) == 1:
        return decode(real[0], data, where=where)
    for choice in real:
        try:
            return decode(choice, data, where=where)
        except ResultsError:
            continue
    raise _mistyped(" or ".join(_type_name(choice) for choice in choices), data, where)


def _decode_sequence(kind: type, arguments: tuple[Any, ...], data: Any, where: str) -> Any:
    if not isinstance(data, list | tuple):
        raise _mistyped(kind, data, where)
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(arguments) != len(data):
            raise _mistyped(f"tuple of {len(arguments)}", data, where)
        pairs = enumerate(zip(arguments, data, strict=True))
        return tuple(decode(inner, item, where=f"{where}[{i}]") for i, (inner, item) in pairs)
    inner = arguments[0] if arguments else Any
    if inner is float and all(type(item) is float for item in data):
        return kind(data)  # raw samples run to 10^5 numbers; one pass instead of a call each
    return kind(decode(inner, item, where=f"{where}[{i}]") for i, item in enumerate(data))


def _revived(data: Any) -> Any:
    """Restore NaN and infinity inside untyped data."""
    if isinstance(data, Mapping):
        if set(data) == {_NON_FINITE}:
            return float(data[_NON_FINITE])
        return {key: _revived(item) for key, item in data.items()}
    if isinstance(data, list | tuple):
        return [_revived(item) for item in data]
    return data


def _type_name(expected: Any) -> str:
    return getattr(expected, "__name__", None) or str(expected)


def _mistyped(expected: Any, data: Any, where: str) -> ResultsError:
    shown = repr(data)
    shown = shown if len(shown) <= 60 else shown[:57] + "…"
    name = expected if isinstance(expected, str) else _type_name(expected)
    return ResultsError(f"Expected {name}, got {shown}.", where=where, remedy="The data was changed or damaged.")
