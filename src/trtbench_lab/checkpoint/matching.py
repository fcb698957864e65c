"""Matching a source's tensors with a family's weight map: everything found, nothing left over, every shape right."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..errors import IntakeError
from ..families import Family, Part
from .layout import WholeTensor, whole_tensors

if TYPE_CHECKING:
    from ..specs import ModelConfig
    from .source import TensorSource


@dataclass(frozen=True)
class SourcePart:
    """Rows of a whole tensor and where they come from.

    Attributes
    ----------
    name
        Tensor of the source.
    part
        The rule that turns it into rows.
    start, end
        Rows of the whole tensor that it makes.
    """

    name: str
    part: Part
    start: int
    end: int

    def rows_of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the rows that the source's tensor makes, as a view where that is possible."""
        return tensor if self.part.transform is None else self.part.transform(tensor)


def match_source(source: TensorSource, config: ModelConfig, family: Family) -> dict[str, tuple[SourcePart, ...]]:
    """Return, for every whole tensor of the model (unquantized), the parts that make it.

    Raises
    ------
    IntakeError
        When tensors are missing, not known to the family, of a wrong shape or not of a floating type; each with the
        complete list.
    """
    actual = _longest_names(source, family)
    rules = {rule.target: rule for rule in family.weight_map(config)}
    matched: dict[str, tuple[SourcePart, ...]] = {}
    used: set[str] = set()
    missing: list[str] = []
    problems: list[str] = []
    for tensor in whole_tensors(config.replace(quantization=type(config.quantization)())):
        rule = rules.get(tensor.name)
        if rule is None:
            raise IntakeError(
                f"The family {family.name} does not say where {tensor.name} comes from.", where=family.name
            )
        chosen = []
        for part in rule.parts:
            name = next((actual[option] for option in (part.name, part.fallback) if option in actual), None)
            if name is None:
                missing.append(part.name)
            else:
                chosen.append((name, part))
        if len(chosen) == len(rule.parts):
            used.update(name for name, _ in chosen)
            parts = _placed(source, tensor, chosen, problems)
            matched[tensor.name] = parts
    where = str(source.directory)
    if missing:
        raise IntakeError(
            f"{len(missing)} tensors of {family.title} are missing: {_some(missing)}.",
            where=where,
            remedy="The weights are incomplete, or config.json belongs to another model: fetch both again.",
        )
    extra = _extra(actual, used, family, config)
    if extra:
        raise IntakeError(
            f"{len(extra)} tensors are not part of {family.title} as config.json describes it: {_some(extra)}.",
            where=where,
            remedy="Without them the engine would be wrong; use config.json and weights of one model.",
        )
    if problems:
        raise IntakeError(
            f"{len(problems)} tensors do not fit config.json: {_some(problems, limit=4, separator='; ')}.",
            where=where,
            remedy="Use config.json and weights of one model.",
        )
    if config.share_embedding_table:
        _check_tied(source, actual, family, config)
    return matched


def _longest_names(source: TensorSource, family: Family) -> dict[str, str]:
    """Return name with the family's prefix → name in the source; files of the bare model leave the prefix out."""
    names = {name: name for name in source.names()}
    if family.prefix:
        for name in source.names():
            if not name.startswith(family.prefix):
                names.setdefault(family.prefix + name, name)
    return names


def _placed(
    source: TensorSource, tensor: WholeTensor, chosen: list[tuple[str, Part]], problems: list[str]
) -> tuple[SourcePart, ...]:
    parts, start = [], 0
    for name, part in chosen:
        rows = tensor.shape[0] - start if part.rows is None else part.rows
        parts.append(SourcePart(name, part, start, start + rows))
        start += rows
        wanted = (rows, *tensor.shape[1:])
        shape = tuple(source.shape(name))
        if not source.dtype(name).is_floating_point or source.dtype(name).itemsize == 1:
            kind = str(source.dtype(name)).removeprefix("torch.")
            problems.append(f"{name} holds {kind}, not plain floating-point weights")
        elif not _makes(shape, part, wanted):
            problems.append(f"{name} is {shape}, from which {wanted} of {tensor.name} cannot be made")
    if start != tensor.shape[0] and not problems:
        problems.append(f"{tensor.name} needs {tensor.shape[0]} rows and its parts have {start}")
    return tuple(parts)


def _makes(shape: tuple[int, ...], part: Part, wanted: tuple[int, ...]) -> bool:
    made = shape
    if part.transform is not None:
        try:
            made = tuple(part.transform(torch.empty(shape, device="meta")).shape)
        except RuntimeError:  # the transform's view does not exist for this shape
            return False
    return made == wanted


def _extra(actual: dict[str, str], used: set[str], family: Family, config: ModelConfig) -> list[str]:
    left: dict[str, list[str]] = {}
    for longest, name in actual.items():
        if name not in used:
            left.setdefault(name, []).append(longest)
    ignored = [re.compile(pattern) for pattern in family.ignored]
    if config.share_embedding_table:  # then lm_head is not written; _check_tied compares it
        ignored.append(re.compile(r"lm_head\.weight"))
    return [
        name
        for name, spellings in left.items()
        if not any(pattern.fullmatch(spelling) for pattern in ignored for spelling in spellings)
    ]


def _check_tied(source: TensorSource, actual: dict[str, str], family: Family, config: ModelConfig) -> None:
    """A file may hold a tied head a second time; sharing the table is right only when both are equal."""
    rules = {rule.target: rule.parts[0] for rule in family.weight_map(config)}
    head, embedding = actual.get("lm_head.weight"), actual[rules["transformer.vocab_embedding.weight"].name]
    if head is None or torch.equal(source.tensor(head), source.tensor(embedding)):
        return
    raise IntakeError(
        f"{head} differs from {embedding}, although config.json ties them.",
        where=str(source.directory),
        remedy="Leave share_embedding_table off: both tables are written then.",
    )


def _some(names: list[str], limit: int = 8, separator: str = ", ") -> str:
    return separator.join(names[:limit]) + (f"{separator}… {len(names) - limit} more" if len(names) > limit else "")
