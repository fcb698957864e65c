"""What can be looked into, and how each source is read at rest: an engine folder, a live executor, a saved file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backends.protocol import engine_file_name
from ..errors import EngineError
from .reading import Reading, read_json, unknown_form
from .recording.workload import DECODE, Step

if TYPE_CHECKING:
    from ..engine import Engine


def executor_of(source: Any) -> Any | None:
    """Return the executor that `source` is or holds (a `ModelRunner` has one), else None."""
    if isinstance(source, str | Path):
        return None
    for candidate in (source, getattr(source, "executor", None)):
        if candidate is not None and hasattr(candidate, "io") and callable(getattr(candidate, "bind", None)):
            return candidate
    return None


def engine_of(source: Any) -> Engine | None:
    """Return the engine that `source` is or whose folder it names; None for another file.

    Raises
    ------
    EngineError
        When nothing is there, or only one file of an engine folder is named.
    """
    from ..engine import Engine

    if isinstance(source, Engine):
        return source
    path = Path(source).expanduser()
    if path.is_dir():
        # Versions and machine are asked about where the engine is run, not where it is looked at.
        return Engine.from_dir(path, verify=False)
    if path.suffix == ".engine" and (path.parent / "config.json").is_file():
        raise EngineError(
            "This is one file of an engine folder.", where=str(path), remedy=f"Name the folder: {str(path.parent)!r}."
        )
    if not path.exists():
        raise EngineError(
            "There is no such engine folder or file.", where=str(path), remedy="Check the path, or build the engine."
        )
    return None


def reading_of_file(path: Path, times: Path | str | None) -> Reading:
    """Read a saved file of any known form; `times` are layer times of an inspector's engine.

    Raises
    ------
    EngineError
        When the file cannot be read, or is of no known form.
    """
    if path.suffix == ".onnx":
        from .readers.onnx_graph import read_onnx

        return read_onnx(path, backend="none: a network, not an engine")
    from .readers import onnxruntime_profile, tensorrt_json, torch_trace

    content = read_json(path)
    where = str(path)
    if tensorrt_json.is_inspector(content):
        found = None
        if times is not None:
            found = tensorrt_json.read_times(read_json(Path(times).expanduser()), str(times))
        return tensorrt_json.read_inspector(content, where, found)
    if torch_trace.is_trace(content):
        return torch_trace.read_trace(content, where)
    if tensorrt_json.is_times(content):
        return tensorrt_json.read_only_times(content, where)
    if onnxruntime_profile.is_profile(content):
        return onnxruntime_profile.read_profile(content, where)
    raise unknown_form(where)


def reading_of_engine(engine: Engine, rank: int, step: Step) -> Reading:
    """Read an engine folder: its network or modules, or what TensorRT's build saved; else its runtime is asked."""
    from ..engine.verify import check_rank

    check_rank(engine.config, rank, str(engine.directory))
    path = engine.directory / engine_file_name(rank)
    if engine.config.backend == "onnxruntime":
        from .readers.onnx_graph import read_onnx

        return read_onnx(path, sizes=step.sizes(tokens_per_block=_tokens_per_block(engine)))
    if engine.config.backend == "torch":
        return _torch_modules(engine, rank, path)
    saved = _saved_inspection(engine, rank, step)
    if saved is not None:
        return saved
    return reading_of_executor(engine.executor(rank), step)


def _torch_modules(engine: Engine, rank: int, path: Path) -> Reading:
    import torch

    from ..backends.torch.engine_file import engine_decoder, layout_of
    from ..network.decoder import Decoder
    from .readers.torch_modules import read_modules

    config = engine.config.pretrained_config
    config = config.replace(mapping=config.mapping.with_rank(rank))
    try:
        decoder = engine_decoder(config, layout_of(path))
    except EngineError:  # an engine laid out for a GPU's kernels: the same modules, from its configuration
        with torch.device("meta"):
            decoder = Decoder(config, config.mapping)
    return read_modules(decoder)


def _saved_inspection(engine: Engine, rank: int, step: Step) -> Reading | None:
    """Read what the build saved beside the plan that runs `step`: the inspector's JSON, and layer times if any."""
    from .readers.tensorrt_json import read_inspector, read_times

    found = plan_of(sorted(engine.directory.glob(f"rank{rank}.*inspector.json")), step)
    if found is None:
        return None
    profile_file = found.with_name(found.name.replace(".inspector.json", ".profile.json"))
    times: Mapping[str, Any] | None = None
    if profile_file.is_file():
        times = read_times(read_json(profile_file), str(profile_file))
    reading = read_inspector(read_json(found), str(found), times)
    reading.notes.append(f"Read from {found.name}, which the build wrote; TensorRT was not asked again.")
    return reading


def plan_of(files: list[Path], step: Step) -> Path | None:
    """Return the plan of the least cache capacity that holds the step, of its phase where phases have plans."""
    phases = [file for file in files if (".decode." in file.name) == (step.phase == DECODE)] or files

    def room(file: Path) -> float:
        named = re.search(r"\.s(\d+)\.", file.name)
        return int(named.group(1)) if named else math.inf  # the largest has no number

    fitting = [file for file in phases if room(file) >= step.past + step.new]
    return min(fitting, key=room) if fitting else None


def reading_of_executor(executor: Any, step: Step) -> Reading:
    """Read an engine that is loaded."""
    if executor.backend == "tensorrt":
        from .recording.tensorrt import inspect_tensorrt

        return inspect_tensorrt(executor)
    if executor.backend == "torch":
        from .readers.torch_modules import read_modules

        return read_modules(executor.modules())
    from .readers.onnx_graph import read_onnx

    return read_onnx(executor.network_files[0], sizes=step.sizes())


def _tokens_per_block(engine: Engine) -> int:
    found = getattr(engine.config.build_config.plugin_config, "tokens_per_block", None)
    return found if isinstance(found, int) and found > 0 else 64
