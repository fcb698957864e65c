"""The flags of one request: every spelling of every option, those of nested specs included."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .coerce import FALSE_WORDS, TRUE_WORDS, Unfit, coerced, describe, is_optional, without_none
from .options import OptionInfo, OptionMeta, checked
from .spec import Spec

NO_VALUE = object()
"""Stands for the value of a flag that was given without one."""


@dataclass(frozen=True)
class FlatOption:
    """An option where a command line sees it: all on one level.

    Attributes
    ----------
    path
        Names of the fields that lead to it from the request: ``("build_config", "plugin_config", "gemm_plugin")``.
    """

    info: OptionInfo
    path: tuple[str, ...]

    @property
    def meta(self) -> OptionMeta:
        return self.info.meta

    @property
    def kind(self) -> Any:
        """The type without None."""
        return without_none(self.info.annotation)

    @property
    def is_switch(self) -> bool:
        return self.kind is bool

    @property
    def is_list(self) -> bool:
        return typing.get_origin(self.kind) is tuple

    @property
    def takes_optional_value(self) -> bool:
        return self.is_switch or self.meta.bare is not None

    @property
    def words(self) -> tuple[str, ...]:
        """What may be typed for the value, for completion and for telling a value from the next word."""
        if self.is_switch:
            return ("enable", "disable")
        return tuple(str(choice) for choice in self.meta.choices or ())

    def accepts(self, text: str) -> bool:
        """Whether `text` is one of the option's own words, in any of their spellings."""
        if self.is_switch:
            return text.lower() in TRUE_WORDS | FALSE_WORDS
        return text in self.words or text.lower() in self.meta.synonyms or text in self.meta.later

    def value_from_text(self, texts: list[str]) -> Any:
        """Return the checked value for what was typed.

        Raises
        ------
        Unfit
            When it cannot be read.
        """
        value = self._raw_value(texts)
        return checked(self.info, value)

    def _raw_value(self, texts: list[str]) -> Any:
        text = " ".join(texts)
        meta = self.meta
        if meta.parse is not None:
            return text  # checked() parses
        if self.is_list:
            member = typing.get_args(self.kind)[0]
            return [] if texts == [""] else [_scalar(word, member) for word in texts]
        if text in meta.synonyms or text.lower() in meta.synonyms:
            return meta.synonyms.get(text, meta.synonyms.get(text.lower()))
        is_free_text = self.kind is str and not self.words  # a file may well be called "none"
        if is_optional(self.info.annotation) and not is_free_text and text.lower() in ("none", "null"):
            return None
        return _scalar(text, self.kind)


def _scalar(text: str, kind: Any) -> Any:
    if kind is bool:
        return coerced(text, bool)
    if kind is int or kind is float:
        try:
            return kind(text)
        except ValueError:
            raise Unfit(f"must be {describe(kind)}, not {text!r}") from None
    return text


@dataclass(frozen=True)
class Flag:
    """One spelling: an option, and the value that the spelling alone sets."""

    option: FlatOption
    constant: Any = NO_VALUE


@dataclass(frozen=True)
class FlagTable:
    """All spellings of one request.

    Attributes
    ----------
    options
        Every option that has a flag, in the order of declaration.
    flags
        Spelling (with underscores) → `Flag`.
    names
        ``name=value`` spelling → option; the flags without their dashes.
    nested
        Name of a nested spec → path to it, for objects given whole.
    positional
        Options that words without a flag fill, in their order.
    """

    options: tuple[FlatOption, ...]
    flags: dict[str, Flag]
    names: dict[str, FlatOption]
    nested: dict[str, tuple[str, ...]]
    positional: tuple[FlatOption, ...]


def normalized(flag: str) -> str:
    """Return a flag in the form of `FlagTable.flags`: both generations of tools write - and _ as they like."""
    head = "--" if flag.startswith("--") else "-"
    return head + flag.removeprefix(head).replace("-", "_")


_TABLES: dict[type, FlagTable] = {}


def flag_table(spec: type[Spec]) -> FlagTable:
    """Return the flags of a request; made once for each class."""
    if spec not in _TABLES:
        _TABLES[spec] = _make_table(spec)
    return _TABLES[spec]


def _make_table(spec: type[Spec]) -> FlagTable:
    nested: dict[str, tuple[str, ...]] = {}
    options = list(_flatten(spec, (), nested))
    options.sort(key=lambda item: len(item.path))  # an option of the request itself comes before a nested namesake
    flags: dict[str, Flag] = {}
    for item in options:
        for spelling in (item.info.flag, f"--{item.info.name}", *item.meta.flags):
            flags.setdefault(normalized(spelling), Flag(item))
    for item in options:
        for spelling, constant in item.meta.constants.items():
            flags.setdefault(normalized(spelling), Flag(item, constant))
        if item.is_switch:
            flags.setdefault(f"--no_{item.info.name}", Flag(item, False))
    visible = [item for item in options if flags[normalized(item.info.flag)].option is item]
    names = {
        spelling.lstrip("-"): flag.option
        for spelling, flag in flags.items()
        if spelling.startswith("--") and flag.constant is NO_VALUE
    }
    positional = [item for item in visible if item.meta.positional is not None]
    positional.sort(key=lambda item: item.meta.positional or 0)
    return FlagTable(tuple(visible), flags, names, nested, tuple(positional))


def _flatten(spec: type[Spec], above: tuple[str, ...], nested: dict[str, tuple[str, ...]]) -> Iterator[FlatOption]:
    for info in spec.options():
        path = (*above, info.name)
        kind = without_none(info.annotation)
        if isinstance(kind, type) and issubclass(kind, Spec):
            nested[info.name] = path
            yield from _flatten(kind, path, nested)
        elif info.meta.command_line:
            yield FlatOption(info, path)


def placeholder(option: FlatOption) -> str:
    """Return what stands for the value in help texts and messages."""
    if option.meta.metavar:
        return option.meta.metavar
    if option.words:
        return "|".join(option.words)
    names = {int: "N", float: "X", str: "TEXT"}
    return names.get(option.kind, option.info.name.upper())


def text_from_value(value: Any) -> str:
    """Return a value as it is typed."""
    if isinstance(value, bool):
        return "enable" if value else "disable"
    return "none" if value is None else str(getattr(value, "value", value))
