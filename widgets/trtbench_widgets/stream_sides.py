"""The sides of a race of streams: what a person names, under which label, opened as a source of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from trtbench_lab.engine import Engine
from trtbench_lab.evaluation.streams import StreamSource
from trtbench_lab.runtime import ModelRunner
from trtbench_lab.workbench.labels import quantization_label
from trtbench_lab.workbench.loading import open_engine


def named_sides(engines: Sequence[Any], hf: Any) -> list[dict[str, Any]]:
    """Return what is known of the sides before anything is loaded."""
    names = ["Hugging Face"] if hf is not None else []
    for engine in engines:
        where = engine.directory if isinstance(engine, Engine) else engine
        name = Path(where).name if isinstance(where, str | Path) else getattr(where, "name", None) or "engine"
        names.append(name if name not in names else f"{name} ({len(names)})")
    return [{"label": name, "backend": "", "dtype": "", "quantization": ""} for name in names]


def opened_side(engine: Any, stack: ExitStack) -> tuple[Engine | None, Any]:
    """Return an engine folder as an object where there is one, and its runner."""
    if isinstance(engine, str | Path):
        engine = open_engine(str(engine))
    if isinstance(engine, Engine):
        return engine, stack.enter_context(ModelRunner.from_engine(engine))
    return None, engine


def known_label(label: str, engine: Engine | None, before: Sequence[StreamSource]) -> str:
    """Return a side's name: of an engine in the cache, whose folder is a hash, the model's and its quantization."""
    if engine is None or label.startswith(engine.name):
        return label
    quantization = quantization_label(engine.config.pretrained_config)
    named = engine.name if quantization == "none" else f"{engine.name} {quantization}"
    return named if all(source.label != named for source in before) else f"{named} ({len(before)})"


def source_of(label: str, engine: Engine | None, runner: Any) -> StreamSource:
    """Return a side as the streams take it, with what is known of its engine."""
    if engine is None:
        return StreamSource(label=label, runner=runner)
    return StreamSource(
        label=label,
        runner=runner,
        dtype=engine.config.build_config.compute_dtype,
        quantization=quantization_label(engine.config.pretrained_config),
        engine_dir=str(engine.directory),
    )
