"""Turn a given value into a field's declared type, or say plainly why it cannot be done."""

from __future__ import annotations

import enum
import math
import os
import types
import typing
from typing import Any

from ..errors import suggest

TRUE_WORDS = frozenset({"true", "enable", "enabled", "on", "yes", "1"})
FALSE_WORDS = frozenset({"false", "disable", "disabled", "off", "no", "0"})


class Unfit(Exception):
    """A value that does not fit; the text is the end of a sentence that begins with the field's name."""

    def __init__(self, reason: str, remedy: str | None = None):
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


def is_optional(annotation: Any) -> bool:
    """Whether None is one of the values of `annotation`."""
    return type(None) in typing.get_args(annotation)


def without_none(annotation: Any) -> Any:
    """Return `annotation` with None taken away."""
    members = [member for member in typing.get_args(annotation) if member is not type(None)]
    if not isinstance(annotation, types.UnionType) and typing.get_origin(annotation) is not typing.Union:
        return annotation
    return members[0] if len(members) == 1 else typing.Union[tuple(members)]  # noqa: UP007 - built at run time


def coerced(value: Any, annotation: Any) -> Any:
    """Return `value` as an instance of `annotation`.

    Accepts what means the same without loss: an int for a float, a list for a tuple, a mapping for a nested spec, the
    value of an enumeration for its member, an object with a ``directory`` or a path for a string.

    Raises
    ------
    Unfit
        When the value cannot be read as that type.
    """
    if is_optional(annotation):
        if value is None:
            return None
        annotation = without_none(annotation)
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return _first_fit(value, typing.get_args(annotation))
    if origin is tuple:
        return _coerced_tuple(value, typing.get_args(annotation))
    if origin is dict or annotation is dict:
        return _coerced_dict(value)
    return _coerced_scalar(value, annotation)


def _coerced_scalar(value: Any, annotation: Any) -> Any:
    if annotation is Any:
        return value
    if annotation is bool:
        return _coerced_bool(value)
    if annotation is int:
        return _coerced_int(value)
    if annotation is float:
        return _coerced_float(value)
    if annotation is str:
        return _coerced_str(value)
    if isinstance(annotation, type) and issubclass(annotation, enum.StrEnum):
        return _coerced_enum(value, annotation)
    if isinstance(value, annotation):
        return value
    from_dict = getattr(annotation, "from_dict", None)
    if from_dict is not None and isinstance(value, typing.Mapping):
        return from_dict(value)
    raise Unfit(f"must be {describe(annotation)}, not {shown(value)}")


def _coerced_bool(value: Any) -> bool:
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        return bool(value)
    if isinstance(value, str) and value.lower() in TRUE_WORDS | FALSE_WORDS:
        return value.lower() in TRUE_WORDS
    raise Unfit(f"must be true or false, not {shown(value)}")


def _coerced_int(value: Any) -> int:
    if not isinstance(value, bool) and hasattr(value, "__index__"):
        try:
            return int(value.__index__())
        except (TypeError, ValueError):  # arrays of several elements have __index__ and refuse
            pass
    raise Unfit(f"must be a whole number, not {shown(value)}")


def _coerced_float(value: Any) -> float:
    if not isinstance(value, bool | str) and hasattr(value, "__float__"):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise Unfit(f"must be a number, not {shown(value)}") from None
        if math.isfinite(number):
            return number
        raise Unfit(f"must be a finite number, not {shown(value)}")
    raise Unfit(f"must be a number, not {shown(value)}")


def _coerced_str(value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    # An engine or a checkpoint stands for its folder, and so does the result of the step that wrote one.
    for folder in (value, getattr(value, "directory", None), getattr(value, "output_dir", None)):
        if isinstance(folder, str):
            return folder
        if isinstance(folder, os.PathLike) and isinstance(path := os.fspath(folder), str):
            return path
    raise Unfit(f"must be text, not {shown(value)}")


def _coerced_enum(value: Any, kind: type[enum.StrEnum]) -> enum.StrEnum:
    if isinstance(value, kind):
        return value
    names = [member.value for member in kind]
    if isinstance(value, str):
        for member in kind:
            if value.upper() == member.value.upper():
                return member
        nearest = suggest(value.upper(), names)
        raise Unfit(
            f"cannot be {value!r}; choose from {', '.join(names)}", f"Did you mean {nearest!r}?" if nearest else None
        )
    raise Unfit(f"must be one of {', '.join(names)}, not {shown(value)}")


def _coerced_tuple(value: Any, members: tuple[Any, ...]) -> tuple[Any, ...]:
    if hasattr(value, "tolist") and not isinstance(value, str | bytes):
        value = value.tolist()  # NumPy arrays and tensors
    if not isinstance(value, list | tuple | set | frozenset):
        raise Unfit(f"must be a list, not {shown(value)}")
    if len(members) == 2 and members[1] is Ellipsis:
        return tuple(coerced(item, members[0]) for item in value)
    if len(value) != len(members):
        raise Unfit(f"must have {len(members)} elements, not {len(value)}")
    return tuple(coerced(item, kind) for item, kind in zip(value, members, strict=True))


def _coerced_dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, typing.Mapping):
        raise Unfit(f"must be a table of names and values, not {shown(value)}")
    if not all(isinstance(key, str) for key in value):
        raise Unfit("must have text for its keys")
    return dict(value)


def _first_fit(value: Any, members: tuple[Any, ...]) -> Any:
    for member in members:
        if isinstance(member, type) and type(value) is member:
            return value
    for member in members:
        try:
            return coerced(value, member)
        except Unfit:
            continue
    raise Unfit(f"must be {' or '.join(describe(member) for member in members)}, not {shown(value)}")


def describe(annotation: Any) -> str:
    """Return a type in words, for help texts and messages."""
    if is_optional(annotation):
        return f"{describe(without_none(annotation))} or nothing"
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(member) for member in typing.get_args(annotation))
    if origin is tuple:
        return "a list of " + describe(typing.get_args(annotation)[0]).removeprefix("a ").removeprefix("an ")
    if origin is dict or annotation is dict:
        return "a table"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))


def shown(value: Any) -> str:
    """Return `value` for a message: short, whatever it is."""
    try:
        text = repr(value)
    except Exception:  # a foreign object's repr may fail in any way; the message must still come out
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 80 else f"{text[:77]}…"
