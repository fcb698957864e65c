"""Fields that carry their own documentation: type, default, help, choices, bounds, spellings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import suggest
from .coerce import Unfit, coerced, shown

META_KEY = "option"
"""Where a dataclass field keeps its `OptionMeta`."""


@dataclass(frozen=True, kw_only=True)
class OptionMeta:
    """What a field says about itself beyond its name, type and default.

    Attributes
    ----------
    help
        One sentence: what it is.
    choices
        The values allowed, None for any value of the type.
    flags
        Further spellings on the command line beside ``--<field name>``.
    constants
        Flags that take no value and set one: ``{"--enable_context_fmha": True}``.
    unit, metavar, since, effect, group
        Unit of the value, placeholder in help texts, version of this project that brought it, what choosing it costs
        or gains, heading under which it is shown.
    minimum, maximum
        Bounds of a number, both allowed themselves.
    synonyms
        Other words for a choice: ``{"fp16": "float16"}``.
    bare
        The value of a flag that is given without one; `UNSET` where a value is needed.
    parse
        Reads the value from text, where the type alone does not tell how.
    render
        Writes a value so that `parse` reads it again.
    positional
        Place (from 0) among the words that need no flag; None where a flag is needed.
    later
        Choices that are known and not available in this version, each with a sentence that names what is.
    command_line
        Whether the field has a flag at all.
    secret
        Never written to a dictionary, a result or a command line.
    nonempty
        For lists: whether at least one element is needed.
    nargs
        Words that one flag takes: a number, or ``"+"`` for all up to the next flag.
    flag
        The spelling that is shown and written; ``--<field name>`` by default.
    derived
        Whether the value follows from other fields unless it is given.
    remarks
        Words accepted with a sentence that tells what they come to here.
    """

    help: str
    choices: tuple[Any, ...] | None = None
    flags: tuple[str, ...] = ()
    constants: Mapping[str, Any] = field(default_factory=dict)
    unit: str | None = None
    metavar: str | None = None
    since: str = "0.1"
    effect: str | None = None
    group: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    synonyms: Mapping[str, Any] = field(default_factory=dict)
    bare: Any = None
    parse: Callable[[str], Any] | None = None
    render: Callable[[Any], str] | None = None
    positional: int | None = None
    later: Mapping[str, str] = field(default_factory=dict)
    command_line: bool = True
    secret: bool = False
    nonempty: bool = False
    nargs: int | str = 1
    flag: str | None = None
    derived: bool = False
    remarks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class OptionInfo:
    """One field of a spec as faces see it: the command line, widgets and documentation are made from this."""

    spec: str
    name: str
    annotation: Any
    default: Any
    required: bool
    meta: OptionMeta

    @property
    def path(self) -> str:
        """``"PluginConfig.context_fmha"``: the name by which conflicts and fixes speak of the field."""
        return f"{self.spec}.{self.name}"

    @property
    def flag(self) -> str:
        """The spelling on the command line that is shown and written."""
        return self.meta.flag or f"--{self.name}"

    @property
    def help(self) -> str:
        return self.meta.help

    @property
    def choices(self) -> tuple[Any, ...] | None:
        return self.meta.choices


def option(
    *, default: Any = dataclasses.MISSING, factory: Callable[[], Any] | None = None, help: str, **meta: Any
) -> Any:
    """Declare one field of a `Spec`; the keywords are those of `OptionMeta`.

    Without `default` and `factory` the field must be given.
    """
    metadata = {META_KEY: OptionMeta(help=help, **meta)}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def checked(info: OptionInfo, value: Any) -> Any:
    """Return `value` coerced to the option's type and within its choices and bounds, or raise `Unfit`."""
    meta = info.meta
    try:
        hash(value)
        value = meta.synonyms.get(value, value) if meta.synonyms and not isinstance(value, int | float) else value
    except TypeError:
        pass
    if isinstance(value, bool | type(None)) and meta.synonyms:
        value = meta.synonyms.get(str(value).lower(), value)
    if meta.parse is not None and isinstance(value, str):
        value = meta.parse(value)
    value = coerced(value, info.annotation)
    if meta.nonempty and not value:
        raise Unfit("is empty", "Give at least one value.")
    for item in value if isinstance(value, tuple) else (value,):
        _check_item(meta, item)
    return value


def _check_item(meta: OptionMeta, item: Any) -> None:
    if item is None:
        return
    if isinstance(item, str) and item in meta.later:
        raise Unfit(f"cannot be {item!r} in this version", meta.later[item])
    if meta.choices is not None and item not in meta.choices:
        nearest = suggest(str(item), [str(choice) for choice in meta.choices])
        words = ", ".join(str(choice) for choice in meta.choices)
        raise Unfit(f"cannot be {shown(item)}; choose from {words}", f"Did you mean {nearest!r}?" if nearest else None)
    if isinstance(item, int | float) and not isinstance(item, bool):
        if meta.minimum is not None and item < meta.minimum:
            raise Unfit(f"must be at least {meta.minimum:g}, not {item}")
        if meta.maximum is not None and item > meta.maximum:
            raise Unfit(f"must be at most {meta.maximum:g}, not {item}")
