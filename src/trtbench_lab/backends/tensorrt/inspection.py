"""What TensorRT made of the network: its inspector's JSON, kept beside each plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import EngineError
from ...storage import storage_error
from .bindings_check import created, tensorrt
from .executor import TensorRTExecutor


def inspector_name(plan: str) -> str:
    """Return the name of a plan's inspector file: ``rank0.engine`` → ``rank0.inspector.json``."""
    return f"{plan.removesuffix('.engine')}.inspector.json"


def engine_information(engine: Any, context: Any | None = None) -> dict[str, Any]:
    """Return the inspector's JSON of an engine.

    Parameters
    ----------
    engine
        A deserialized plan. Built with profiling_verbosity detailed it tells types, tactics and origins of each layer;
        otherwise names only, or nothing.
    context
        An execution context whose shapes are set: dynamic sizes are then told as they are in it.

    Raises
    ------
    EngineError
        When TensorRT gives no JSON.
    """
    trt = tensorrt()
    inspector = created(lambda: engine.create_engine_inspector(), "an engine inspector")
    if context is not None:
        inspector.execution_context = context
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        found = json.loads(text)
    except (TypeError, ValueError) as error:
        raise EngineError(
            "TensorRT's inspector gives no JSON.",
            where="inspector",
            remedy="Build with profiling_verbosity layer_names_only or detailed.",
            details=str(text)[:2000],
        ) from error
    return found if isinstance(found, dict) else {"Layers": found}


def layer_information(engine: Any, index: int) -> dict[str, Any] | str:
    """Return what the inspector says of one layer, by its number: a table, or its name alone."""
    trt = tensorrt()
    inspector = created(lambda: engine.create_engine_inspector(), "an engine inspector")
    text = inspector.get_layer_information(index, trt.LayerInformationFormat.JSON)
    try:
        return json.loads(text)  # type: ignore[no-any-return]
    except ValueError:
        return str(text).strip()


def write_inspection(engine: Any, path: Path, context: Any | None = None) -> dict[str, Any]:
    """Write the inspector's JSON of an engine to `path` and return it."""
    found = engine_information(engine, context)
    try:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise storage_error(error, path, "write what the inspector says") from error
    return found


def save_inspection(executor: TensorRTExecutor, directory: Path | None = None) -> list[Path]:
    """Write the JSON of every loaded plan beside it (or into `directory`) and return the files.

    With everything bound, the plan of the current step tells its sizes as they are in that step.
    """
    folder = directory or executor.directory
    current: tuple[int, Any] | None = None
    if executor.is_bound:
        step = executor.current_step()
        current = step.place[0], executor.own_context(step).context
    written = []
    for number, plan in enumerate(executor.plans()):
        path = folder / inspector_name(plan.file.file)
        context = current[1] if current is not None and current[0] == number else None
        write_inspection(plan.engine, path, context)
        written.append(path)
    return written
