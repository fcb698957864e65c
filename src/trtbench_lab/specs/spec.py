"""The base class of every spec: an immutable record that checks itself and explains its mistakes."""

from __future__ import annotations

import dataclasses
import enum
import functools
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, dataclass_transform

from ..errors import SpecError, suggest
from .coerce import Unfit, shown
from .options import META_KEY, OptionInfo, checked, option

if TYPE_CHECKING:
    from .conflicts import Conflict


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(option,))
class Spec:
    """Base of every spec: an immutable record whose fields know their type, default, help and choices.

    A subclass only lists its fields with `option`; it becomes a frozen, keyword-only dataclass by itself. Creating one
    coerces and checks each field on its own; rules that tie several fields together are found by `conflicts`.
    """

    _given: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        dataclass(frozen=True, kw_only=True, repr=False)(cls)  # type: ignore[arg-type]
        _guard_constructor(cls)

    def __post_init__(self) -> None:
        problems = []
        for info in self.options():
            try:
                object.__setattr__(self, info.name, checked(info, getattr(self, info.name)))
            except Unfit as unfit:
                problems.append((info.name, unfit))
        if problems:
            raise _field_error(type(self).__name__, problems)

    def __repr__(self) -> str:
        """Return the fields that differ from their defaults, as Python."""
        shown_fields = []
        for info in self.options():
            value = getattr(self, info.name)
            if info.required or value != info.default:
                shown_fields.append(f"{info.name}={'…' if info.meta.secret else _source(value)}")
        return f"{type(self).__name__}({', '.join(shown_fields)})"

    @classmethod
    def options(cls) -> list[OptionInfo]:
        """Return the fields in the order of their declaration."""
        return list(_options(cls))

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """Return the names of the fields, which are also the keys of `to_dict`."""
        return tuple(info.name for info in _options(cls))

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain JSON-ready values; secrets are left out."""
        return {info.name: _plain(getattr(self, info.name)) for info in self.options() if not info.meta.secret}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str | None = None) -> Self:
        """Return the spec that `to_dict` wrote.

        Raises
        ------
        SpecError
            For unknown keys (with the nearest known one), missing keys and values that do not fit; `where` names the
            file the values came from.
        """
        if not isinstance(values, Mapping):
            raise SpecError(f"{cls.__name__} must be a table of names and values, not {shown(values)}.", where=where)
        try:
            return cls(**{_key(key): value for key, value in values.items()})
        except SpecError as error:
            if where is None or error.where == where:
                raise
            inner = f"{where}: {error.where}" if error.where else where
            raise SpecError(error.what, where=inner, remedy=error.remedy) from None

    def replace(self, **changes: Any) -> Self:
        """Return a copy with the named fields changed.

        Fields that nobody gave are worked out anew: ``Mapping(tp_size=2).replace(tp_size=4)`` has four ranks.
        """
        return type(self)(**{**{name: getattr(self, name) for name in self._given}, **changes})

    def derived(self, name: str) -> Any:
        """Return what the field would be if nobody had given it."""
        others = {other: getattr(self, other) for other in self._given if other != name}
        return getattr(type(self)(**others), name)

    def given(self, name: str) -> bool:
        """Whether the field was named by whoever made the spec, rather than left at its default."""
        return name in self._given

    def conflicts(self) -> list[Conflict]:
        """Return every rule between fields (nested specs included) that this spec breaks."""
        from .conflicts import find_conflicts

        return find_conflicts(self)

    def warnings(self) -> list[Conflict]:
        """Return what is allowed and still unwise."""
        from .conflicts import find_warnings

        return find_warnings(self)

    def check(self) -> None:
        """Raise one `SpecError` that lists all conflicts; do nothing when there are none."""
        from .conflicts import raise_conflicts

        raise_conflicts(self.conflicts(), where=type(self).__name__)


_OPTIONS: dict[type, tuple[OptionInfo, ...]] = {}


def _options(cls: type[Spec]) -> tuple[OptionInfo, ...]:
    if cls not in _OPTIONS:
        hints = typing.get_type_hints(cls)
        _OPTIONS[cls] = tuple(_option_info(cls, item, hints[item.name]) for item in dataclasses.fields(cls))  # type: ignore[arg-type]
    return _OPTIONS[cls]


def _option_info(cls: type[Spec], item: dataclasses.Field[Any], annotation: Any) -> OptionInfo:
    default, factory = item.default, item.default_factory
    required = default is dataclasses.MISSING and factory is dataclasses.MISSING
    if default is dataclasses.MISSING:
        default = None if factory is dataclasses.MISSING else factory()
    return OptionInfo(cls.__name__, item.name, annotation, default, required, item.metadata[META_KEY])


def _guard_constructor(cls: type[Spec]) -> None:
    """Make unknown and missing keywords a `SpecError`, and remember which fields were given."""
    generated: Callable[..., None] = cls.__init__

    @functools.wraps(generated)
    def guarded(self: Spec, /, **values: Any) -> None:
        known = [item.name for item in dataclasses.fields(cls)]  # type: ignore[arg-type]
        unknown = [name for name in values if name not in known]
        if unknown:
            raise unknown_names(cls.__name__, unknown, known)
        missing = [info.name for info in _options(cls) if info.required and info.name not in values]
        if missing:
            raise SpecError(
                f"{cls.__name__} needs {', '.join(missing)}.",
                where=cls.__name__,
                remedy=f"Give {' and '.join(missing)}.",
            )
        object.__setattr__(self, "_given", frozenset(values))
        generated(self, **values)

    cls.__init__ = guarded  # type: ignore[assignment]


def unknown_names(owner: str, unknown: Sequence[str], known: Sequence[str]) -> SpecError:
    """Return the error for names that `owner` does not have, each with its nearest neighbour."""
    lines = []
    for name in unknown:
        nearest = suggest(name, known)
        lines.append(f"{name!r}" + (f" (did you mean {nearest!r}?)" if nearest else ""))
    noun = "an option" if len(lines) == 1 else "options"
    remedy = None if all("did you mean" in line for line in lines) else f"Known: {', '.join(sorted(known))}."
    return SpecError(f"{owner} has no such {noun.removeprefix('an ')}: {', '.join(lines)}.", where=owner, remedy=remedy)


def _field_error(owner: str, problems: Sequence[tuple[str, Unfit]]) -> SpecError:
    reasons = "; ".join(f"{name} {unfit.reason}" for name, unfit in problems)
    remedies = [unfit.remedy for _, unfit in problems if unfit.remedy]
    where = ", ".join(f"{owner}.{name}" for name, _ in problems)
    return SpecError(f"{reasons}.", where=where, remedy=" ".join(remedies) or None)


def _key(key: Any) -> str:
    return key if isinstance(key, str) else shown(key)


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.to_dict()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _source(value: Any) -> str:
    return repr(value.value) if isinstance(value, enum.Enum) else repr(value)
