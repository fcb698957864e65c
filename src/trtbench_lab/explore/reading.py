"""What a reader gives, and how files are read: JSON of bounded size, with plain errors."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import EngineError
from .layer import Layer, TensorFacts

_MOST_BYTES = 2 << 30


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a reader found in one file or engine; the attributes are those of `ExploreResult`."""

    form: str
    backend: str
    layers: tuple[Layer, ...]
    io: tuple[TensorFacts, ...] = ()
    notes: list[str] = field(default_factory=list)
    phase: str | None = None
    batch_size: int | None = None
    input_length: int | None = None


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises
    ------
    EngineError
        When it cannot be read, is too large, or is no JSON.
    """
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise EngineError(
                f"The file has {size / 2**30:.1f} GiB, too much to be explored.",
                where=str(path),
                remedy="Record fewer runs, or profile with `trtbench explore ENGINE --profile`.",
            )
        return json.loads(path.read_bytes())
    except OSError as error:
        raise EngineError(
            f"The file cannot be read: {error.strerror or error}.", where=str(path), remedy="Check the path."
        ) from error
    except (ValueError, RecursionError) as error:
        raise EngineError(
            f"The file is not valid JSON: {str(error)[:120]}.",
            where=str(path),
            remedy="Give an inspector JSON, an ONNX Runtime profile or a torch profiler trace, whole. A trace that was "
            "cut off when its program died must be recorded again.",
        ) from error


def unknown_form(where: str) -> EngineError:
    """Return the error for a file that is none of the known forms."""
    return EngineError(
        "This JSON is none of the forms that can be explored.",
        where=where,
        remedy='Known: TensorRT\'s inspector ({"Layers": …}), a layer profile of trtexec or of this project, an ONNX '
        "Runtime profile, a torch profiler trace.",
    )
