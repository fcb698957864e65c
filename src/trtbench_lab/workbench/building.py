"""Build an engine from a checkpoint, or from a model folder that is converted first."""

from __future__ import annotations

import time
from pathlib import Path

from ..checkpoint import open_checkpoint
from ..engine import Engine
from ..engine import build as build_engine
from ..engine.dispatch import EventSink
from ..errors import SpecError
from ..progress import ProgressSink
from ..results.steps import BuildStep
from ..specs.requests import BuildSpec, ConvertSpec
from .keeping import keep
from .labels import quantization_label


def build(
    spec: BuildSpec, *, progress: ProgressSink | None = None, on_event: EventSink | None = None
) -> BuildStep:
    """Build (or take from the cache) the engine of `spec` and return what was done.

    `on_event` is called with every `BuildEvent`, for views that show phases, log and memory as the build runs.
    """
    started = time.monotonic()
    checkpoint_dir = _checkpoint_dir(spec.checkpoint_dir, progress)
    config = open_checkpoint(checkpoint_dir).config
    if spec.world_size is not None and spec.world_size != config.mapping.world_size:
        raise SpecError(
            f"The checkpoint has {config.mapping.world_size} rank(s), and {spec.world_size} are expected.",
            where="world_size",
            remedy=f"Convert with --tp_size {spec.world_size}, or leave --world_size out.",
        )
    engine = build_engine(
        checkpoint_dir,
        spec.build_config,
        spec.output_dir,
        progress=progress,
        overwrite=spec.overwrite,
        use_cache=spec.build_config.use_cache,
        on_event=on_event,
        refit_from=spec.refit_from,
    )
    return keep(_step(engine, spec, time.monotonic() - started))


def _checkpoint_dir(source: str, progress: ProgressSink | None) -> Path:
    """Return the checkpoint folder: the one named, or a conversion of the model named."""
    path = Path(source).expanduser()
    if (path / "config.json").is_file() and any(path.glob("rank*.safetensors")):
        return path
    from .intake import written_checkpoint

    return written_checkpoint(ConvertSpec(source=source), progress=progress)


def _step(engine: Engine, spec: BuildSpec, seconds: float) -> BuildStep:
    report = engine.build_report
    return BuildStep(
        backend=engine.config.backend,
        model=engine.name,
        name=spec.name,
        spec=spec.to_dict(),
        output_dir=str(engine.directory),
        seconds=seconds,
        notes=[*engine.config.notes, *([engine.placement] if engine.placement else [])],
        key=engine.config.key,
        from_cache=engine.from_cache,
        engine_bytes=engine.config.total_bytes,
        peak_bytes=report.peak_bytes or None,
        phases=[(str(phase["name"]), float(phase["seconds"])) for phase in report.phases],
        quantization=quantization_label(engine.config.pretrained_config),
    )
