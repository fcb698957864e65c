"""The plans that make up one rank of an engine: ``rank{R}.layout.json``, written by a build, read before a load."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import EngineError

FORMAT = "trtbench-tensorrt-layout-1"
PADDED, PAGED = "padded", "paged"
PROMPT, DECODE = "prompt", "decode"
NETWORK_NAME = "network.onnx"
"""The portable network, with its weights, of engines built with visualize."""
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class PlanFile:
    """One serialized plan.

    Attributes
    ----------
    file
        Its name in the engine folder.
    capacity
        Tokens a cache row holds: TensorRT's cache update needs a constant, so each capacity is a plan of its own. None
        for the paged form, whose blocks have no such limit.
    phases
        What each optimization profile, in order, was tuned for: ``"prompt"`` or ``"decode"``.
    """

    file: str
    capacity: int | None
    phases: tuple[str, ...]


@dataclass(frozen=True)
class PlanLayout:
    """The plans of one rank and what a load must know before it opens them.

    Attributes
    ----------
    form
        ``"padded"`` or ``"paged"`` (see `backends.protocol`).
    plans
        At least one; of the padded form several with ascending capacities, or one for each phase.
    compute_dtype, cache_dtype
        Element types of the computation and of the cache, by torch's names.
    max_positions
        Positions that the engine's tables reach.
    tokens_per_block
        Tokens of a block of the paged form, else None.
    stripped
        The plans hold no weights and are refitted when loaded.
    weight_streaming
        The plans were built so that their weights may stay in host memory.
    network
        Name of the ONNX file, with its weights beside it, that stripped plans are refitted from; None otherwise.
    debug_tensors
        Names of intermediate tensors that the engine can give.
    """

    form: str
    plans: tuple[PlanFile, ...]
    compute_dtype: str
    cache_dtype: str
    max_positions: int
    tokens_per_block: int | None = None
    stripped: bool = False
    weight_streaming: bool = False
    network: str | None = None
    debug_tensors: tuple[str, ...] = ()

    @property
    def capacities(self) -> tuple[int, ...]:
        """Every capacity there is a plan for, ascending; empty for the paged form."""
        return tuple(sorted({plan.capacity for plan in self.plans if plan.capacity is not None}))


def layout_name(rank: int) -> str:
    """Return the name of a rank's layout file."""
    return f"rank{rank}.layout.json"


def write_layout(directory: Path, rank: int, layout: PlanLayout) -> Path:
    """Write the layout of one rank into its folder and return the file."""
    path = directory / layout_name(rank)
    path.write_text(json.dumps({"format": FORMAT, **asdict(layout)}, indent=1) + "\n", encoding="utf-8")
    return path


def read_layout(directory: Path, rank: int) -> PlanLayout:
    """Read the layout of one rank.

    Raises
    ------
    EngineError
        When the file is missing, damaged, or names plans that are not in the folder.
    """
    path = directory / layout_name(rank)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("the file is too large")
        layout = _layout_from(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise EngineError(
            "The file that names the engine's plans is missing.", where=str(path), remedy="Build the engine again."
        ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EngineError(
            "The file that names the engine's plans cannot be read.",
            where=str(path),
            remedy="Build the engine again.",
            details=f"{type(error).__name__}: {error}",
        ) from error
    for plan in layout.plans:
        if not (directory / plan.file).is_file():
            raise EngineError(
                f"The plan {plan.file!r} is missing.", where=str(directory), remedy="Build the engine again."
            )
    return layout


def _layout_from(content: Any) -> PlanLayout:
    if content.pop("format", None) != FORMAT:
        raise ValueError(f"the format is not {FORMAT}")
    plans = tuple(
        PlanFile(_file_name(p["file"]), _optional(p["capacity"]), _phases(p["phases"])) for p in content["plans"]
    )
    content["plans"] = plans
    content["debug_tensors"] = tuple(content.get("debug_tensors", ()))
    layout = PlanLayout(**content)
    if not plans or layout.form not in (PADDED, PAGED) or type(layout.max_positions) is not int:
        raise ValueError("plans, form or max_positions are not what they must be")
    if any((plan.capacity is None) is (layout.form == PADDED) for plan in plans):
        raise ValueError("plans of the padded form have a capacity, those of the paged form none")
    return layout


def _file_name(name: Any) -> str:
    if not isinstance(name, str) or Path(name).name != name:
        raise ValueError(f"{name!r} is no file of the folder")
    return name


def _optional(value: Any) -> int | None:
    if value is not None and (type(value) is not int or value < 1):
        raise ValueError(f"a capacity is {value!r}")
    return value


def _phases(values: Any) -> tuple[str, ...]:
    if not values or any(value not in (PROMPT, DECODE) for value in values):
        raise ValueError(f"phases are {values!r}")
    return tuple(values)
