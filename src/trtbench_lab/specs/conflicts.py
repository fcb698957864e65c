"""Rules between fields: all that are broken are found together, each with its reason and the nearest valid choice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from ..errors import SpecError
from .spec import Spec

Severity = Literal["error", "warning", "note"]
Fix = dict[str, Any]
SpecT = TypeVar("SpecT", bound=Spec)


@dataclass(frozen=True)
class Conflict:
    """One broken rule.

    Attributes
    ----------
    fields
        The fields concerned as ``"PluginConfig.context_fmha"``, wherever that spec is nested.
    reason
        Why they cannot stand together, with their values.
    remedy
        What to do, as a sentence.
    fix
        The nearest valid choice as ``{"PluginConfig.context_fmha": False}``, for `apply_fix`; None where only a person
        can choose.
    alternatives
        Further choices that mend it, in the form of `fix`.
    severity
        ``"error"`` where it cannot work, ``"warning"`` where it is unwise, ``"note"`` where one choice implies another.
    """

    fields: tuple[str, ...]
    reason: str
    remedy: str
    fix: Fix | None = None
    alternatives: tuple[Fix, ...] = ()
    severity: Severity = "error"

    def __str__(self) -> str:
        return f"{self.reason} {self.remedy}".strip()


@dataclass(frozen=True)
class Gpu:
    """What the rules need to know of a GPU."""

    compute_capability: tuple[int, int]
    name: str = "the GPU"
    count: int = 1

    @property
    def architecture(self) -> str:
        """``"8.9"``, as NVIDIA writes it."""
        return f"{self.compute_capability[0]}.{self.compute_capability[1]}"


@dataclass(frozen=True)
class Rule:
    """A function of the facts it needs; it runs when all of them are known."""

    needs: tuple[type, ...]
    find: Callable[..., Iterator[Conflict]]


RULES: list[Rule] = []


def rule(*needs: type) -> Callable[[Callable[..., Iterator[Conflict]]], Callable[..., Iterator[Conflict]]]:
    """Register a rule over the given spec classes (and `Gpu`)."""

    def register(find: Callable[..., Iterator[Conflict]]) -> Callable[..., Iterator[Conflict]]:
        RULES.append(Rule(needs, find))
        return find

    return register


def find_conflicts(*specs: Spec, gpu: Gpu | None = None) -> list[Conflict]:
    """Return every rule that the specs break together.

    Nested specs take part too; a spec that is given itself comes before one of its kind that is nested in another.
    Rules that need a spec that is not there, or a GPU that nobody named, are left out.
    """
    return _found(specs, gpu, "error")


def find_warnings(*specs: Spec, gpu: Gpu | None = None) -> list[Conflict]:
    """Return what is allowed and unwise in the specs."""
    return _found(specs, gpu, "warning")


def find_notes(*specs: Spec, gpu: Gpu | None = None) -> list[Conflict]:
    """Return what one choice brings along with it."""
    return _found(specs, gpu, "note")


def raise_conflicts(conflicts: Sequence[Conflict], where: str | None = None) -> None:
    """Raise one `SpecError` that lists all of `conflicts`; do nothing for an empty list."""
    if not conflicts:
        return
    if len(conflicts) == 1:
        raise SpecError(conflicts[0].reason, where=where, remedy=conflicts[0].remedy)
    lines = "".join(f"\n  {number}. {conflict}" for number, conflict in enumerate(conflicts, 1))
    raise SpecError(f"{len(conflicts)} settings cannot stand as they are:{lines}", where=where)


def apply_fix(spec: SpecT, fix: Fix) -> SpecT:
    """Return `spec` with the fields of `fix` changed, in itself and in the specs nested in it."""
    changes: dict[str, Any] = {}
    for info in spec.options():
        value = getattr(spec, info.name)
        if isinstance(value, Spec):
            fixed = apply_fix(value, fix)
            if fixed is not value:
                changes[info.name] = fixed
        elif info.path in fix:
            changes[info.name] = fix[info.path]
    return spec.replace(**changes) if changes else spec


@dataclass(frozen=True)
class Settled:
    """Specs whose open choices follow from the chosen ones, and a sentence for everything that followed."""

    specs: tuple[Any, ...]
    notes: list[str] = field(default_factory=list)


def settle(*specs: Spec, gpu: Gpu | None = None) -> Settled:
    """Let fields that nobody chose give way to those that somebody did.

    Switching the attention plugin off, for example, takes flash attention with it unless that was asked for in so many
    words; then it stays, and `find_conflicts` names the contradiction. Each such change is told in `notes`.
    """
    settled: tuple[Any, ...] = specs
    notes: list[str] = []
    for _ in range(32):  # every round changes at least one field for good, and there are fewer than 32 such fields
        step = _next_step(settled, gpu)
        if step is None:
            break
        conflict, fix = step
        settled = tuple(apply_fix(spec, fix) for spec in settled)
        changes = ", ".join(f"{path.split('.')[-1]} is now {_state(value)}" for path, value in fix.items())
        notes.append(f"{conflict.reason} So {changes}.")
    return Settled(settled, notes)


def _state(value: Any) -> str:
    words = in_words(value)
    return f"{words}d" if words in ("enable", "disable") else words


def _next_step(specs: Sequence[Spec], gpu: Gpu | None) -> tuple[Conflict, Fix] | None:
    given = {path for spec in specs for path in _given_paths(spec)}
    present = {path for spec in specs for path in _paths(spec)}
    for conflict in find_conflicts(*specs, gpu=gpu):
        for fix in (conflict.fix, *conflict.alternatives):
            if fix and not given & fix.keys() and fix.keys() <= present:
                return conflict, fix
    return None


def in_words(value: Any) -> str:
    """Return a field's value as a person would type it."""
    if isinstance(value, bool):
        return "enable" if value else "disable"
    return "none" if value is None else str(value)


def _found(specs: Sequence[Spec], gpu: Gpu | None, severity: Severity) -> list[Conflict]:
    from . import rules  # noqa: F401 - importing it fills RULES

    facts = _facts(specs, gpu)
    found = []
    for one in RULES:
        if all(kind in facts for kind in one.needs):
            found += [item for item in one.find(*(facts[kind] for kind in one.needs)) if item.severity == severity]
    return found


def _facts(specs: Sequence[Spec], gpu: Gpu | None) -> dict[type, Any]:
    facts: dict[type, Any] = {} if gpu is None else {Gpu: gpu}
    level: list[Spec] = list(specs)
    while level:
        for spec in level:
            facts.setdefault(type(spec), spec)
        level = [value for spec in level for value in _nested(spec)]
    return facts


def _nested(spec: Spec) -> list[Spec]:
    return [value for info in spec.options() if isinstance(value := getattr(spec, info.name), Spec)]


def _given_paths(spec: Spec) -> Iterator[str]:
    for info in spec.options():
        value = getattr(spec, info.name)
        if isinstance(value, Spec):
            yield from _given_paths(value)
        elif spec.given(info.name):
            yield info.path


def _paths(spec: Spec) -> Iterator[str]:
    for info in spec.options():
        value = getattr(spec, info.name)
        if isinstance(value, Spec):
            yield from _paths(value)
        else:
            yield info.path
