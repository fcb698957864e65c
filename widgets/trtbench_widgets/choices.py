"""What a selector knows without any page: fields as plain data, conflicts with their remedies, the lines to copy."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trtbench_lab.specs import Spec
from trtbench_lab.specs.coerce import is_optional, without_none
from trtbench_lab.specs.command_line import command_line
from trtbench_lab.specs.conflicts import Conflict, Fix, in_words
from trtbench_lab.specs.help_text import default_in_words
from trtbench_lab.specs.options import OptionInfo


def plain(value: Any) -> Any:
    """Return a field's value as a page takes it."""
    value = getattr(value, "value", value)
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def described(info: OptionInfo) -> dict[str, Any]:
    """Return everything a page needs to show one field: what it is, what it costs, what may be chosen."""
    kind = without_none(info.annotation)
    choices = [plain(choice) for choice in info.choices or ()]
    if is_optional(info.annotation) and choices:
        choices = [None, *choices]
    control = "switch" if kind is bool else "choice" if choices else "number" if kind in (int, float) else "text"
    return {
        "name": info.name,
        "flag": info.flag,
        "group": info.meta.group or "options",
        "control": control,
        "choices": [[choice, in_words(choice)] for choice in choices],
        "default": plain(info.default),
        "default_words": default_in_words(info) or "none",
        "help": info.help,
        "effect": info.meta.effect or "",
        "unit": info.meta.unit or "",
        "minimum": info.meta.minimum,
        "maximum": info.meta.maximum,
        "whole": kind is int,
        "since": info.meta.since,
    }


def fix_label(fix: Fix) -> str:
    """Return what a remedy's button says: ``"gpt_attention_plugin → auto"``."""
    return ", ".join(f"{path.split('.')[-1]} → {in_words(plain(value))}" for path, value in fix.items())


def conflict_data(conflict: Conflict, usable: Iterable[str]) -> dict[str, Any]:
    """Return a conflict for the page, with the remedies that the selector itself can carry out."""
    known = set(usable)
    fixes = [fix for fix in (conflict.fix, *conflict.alternatives) if fix and fix.keys() <= known]
    return {
        "severity": conflict.severity,
        "fields": [path.split(".")[-1] for path in conflict.fields],
        "reason": conflict.reason,
        "remedy": conflict.remedy,
        "fixes": [
            {"label": fix_label(fix), "changes": {path: plain(value) for path, value in fix.items()}} for fix in fixes
        ],
    }


def shell_line(verb: str, spec: Spec) -> str:
    """Return the line that asks for `spec` in a shell."""
    return shlex.join(["trtbench", verb, *command_line(verb, spec)])


def magic_line(verb: str, spec: Spec) -> str:
    """Return the line that asks for `spec` in a notebook."""
    words = [word.replace("{", "{{").replace("}", "}}") for word in command_line(verb, spec)]
    return " ".join([f"%trt_{verb}", *(shlex.quote(word) for word in words)])


def python_lines(verb: str, spec: Spec) -> str:
    """Return the statements that ask for `spec` in Python, with the imports that they need."""
    kinds = sorted({type(one).__name__ for one in nested(spec) if one is not spec and one != type(one)()})
    top = type(spec).__name__
    lines = ["from trtbench_lab import workbench"]
    if kinds:
        lines.append(f"from trtbench_lab.specs import {', '.join(kinds)}")
    return "\n".join([*lines, f"from trtbench_lab.specs.requests import {top}", "", f"workbench.{verb}({spec!r})"])


def nested(spec: Spec) -> list[Spec]:
    """Return a spec and all specs inside it."""
    inner = [getattr(spec, info.name) for info in spec.options()]
    return [spec, *(one for value in inner if isinstance(value, Spec) for one in nested(value))]


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[list[str]]:
    """Return rows of name, this choice, the other's choice, for the fields where they differ."""
    names: Sequence[str] = [name for name in ours if name in theirs]
    return [[name, in_words(ours[name]), in_words(theirs[name])] for name in names if ours[name] != theirs[name]]
