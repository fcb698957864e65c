"""From a source to one exploration: read as it lies, or run under its backend's profiler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EngineError, RequestError
from ..progress import ProgressSink, phase
from .patterns import slow_patterns
from .reading import Reading
from .recording.workload import DECODE, Step
from .result import Ceilings, ExploreResult
from .sources import engine_of, executor_of, reading_of_engine, reading_of_executor, reading_of_file
from .tensors import TensorSummary, summaries

if TYPE_CHECKING:
    from ..engine import Engine

INPUT_LENGTH, NUM_RUNS, WARM_UP = 64, 20, 3


def explore(
    source: Any,
    *,
    rank: int = 0,
    phase_name: str = DECODE,
    batch_size: int = 1,
    input_length: int = INPUT_LENGTH,
    times: Path | str | None = None,
    ceilings: Ceilings | None = None,
    tensors: bool = False,
    name: str | None = None,
) -> ExploreResult:
    """Look into an engine or a saved file without running anything, but for `tensors`.

    Parameters
    ----------
    source
        An engine folder (or `Engine`) of any backend; a live executor; an ONNX file; TensorRT's inspector JSON; layer
        times of TensorRT; an ONNX Runtime profile; a torch profiler trace.
    rank
        Which rank of an engine.
    phase_name, batch_size, input_length
        The step whose sizes and work are counted where shapes are dynamic.
    times
        For an inspector JSON: a file with layer times of the same engine.
    ceilings
        Of the machine that the numbers come from, for the roofline.
    tensors
        Run the step once and read what attention, feed-forward blocks, layers and the last norm give. A TensorRT engine
        needs to be built with enable_debug_output.
    name
        Label of the result.

    Raises
    ------
    EngineError
        When the source cannot be read.
    """
    step = Step(phase_name, batch_size, input_length)
    executor = executor_of(source)
    if executor is not None:
        found = _tensors(executor, step) if tensors else ()
        reading = reading_of_executor(executor, step)
        ran = step if tensors else None
        return _result(reading, "a live executor", None, name=name, ceilings=ceilings, step=ran, tensors=found)
    engine = engine_of(source)
    if engine is None:
        if tensors:
            raise EngineError(
                "Only an engine can be run, and this is a file.",
                where=str(source),
                remedy="Leave --tensors out to look at the file, or name an engine folder.",
            )
        path = Path(source).expanduser()
        reading = reading_of_file(path, times)
        return _result(reading, str(path), None, name=name, ceilings=ceilings)
    found = _tensors_of_engine(engine, rank, step) if tensors else ()
    reading = reading_of_engine(engine, rank, step)
    where, ran = str(engine.directory), step if tensors else None
    return _result(reading, where, engine.name, name=name, ceilings=ceilings, step=ran, tensors=found)


def profile(
    source: Any,
    *,
    rank: int = 0,
    phase_name: str = DECODE,
    batch_size: int = 1,
    input_length: int = INPUT_LENGTH,
    num_runs: int = NUM_RUNS,
    warm_up: int = WARM_UP,
    trace: Path | str | None = None,
    tensors: bool = False,
    name: str | None = None,
    progress: ProgressSink | None = None,
) -> ExploreResult:
    """Run an engine under its backend's profiler and return its layers with their times.

    Parameters
    ----------
    source
        An engine folder, an `Engine`, or a live executor of the torch or tensorrt backend.
    rank, phase_name, batch_size, input_length
        What is run: one new token a row after `input_length` others (``"decode"``), or a prompt of that length.
    num_runs, warm_up
        Recorded runs, and runs before them.
    trace
        File to keep what the profiler wrote.
    tensors
        As in `explore`.
    name
        Label of the result.

    Raises
    ------
    EngineError
        When the source is no engine, or cannot run here.
    RequestError
        For a step outside of the engine's limits.
    """
    step = Step(phase_name, batch_size, input_length)
    kept = Path(trace).expanduser() if trace is not None else None
    executor = executor_of(source)
    found: tuple[TensorSummary, ...] = ()
    device: Any = "cpu"
    if executor is not None:
        found = _tensors(executor, step) if tensors else ()
        with phase("profile", progress):
            reading, run_ms = _recorded(executor, step, num_runs, warm_up, kept)
        where, label, device = "a live executor", None, executor.device
    else:
        engine = engine_of(source)
        if engine is None:
            raise EngineError(
                "Only an engine can be run, and this is a file.",
                where=str(source),
                remedy="Leave --profile out to look at the file, or name an engine folder.",
            )
        _check_limits(engine, step)
        where, label = str(engine.directory), engine.name
        if engine.config.backend == "onnxruntime":  # records only what was loaded with its profiler on
            found = _tensors_of_engine(engine, rank, step) if tensors else ()
            with phase("profile", progress):
                from .recording.onnxruntime import record_onnxruntime

                reading, run_ms = record_onnxruntime(engine, step, num_runs=num_runs, warm_up=warm_up, trace=kept)
        else:
            with _loaded(engine, rank) as executor:
                found = _tensors(executor, step) if tensors else ()
                with phase("profile", progress):
                    reading, run_ms = _recorded(executor, step, num_runs, warm_up, kept)
                device = executor.device
    with phase("measure the machine's ceilings", progress):
        from .ceilings import measured_ceilings

        ceilings = measured_ceilings(device, _main_dtype(reading))
    return _result(reading, where, label, name=name, ceilings=ceilings, step=step, run_ms=run_ms, tensors=found)


def _result(
    reading: Reading,
    source: str,
    model: str | None,
    *,
    name: str | None,
    ceilings: Ceilings | None,
    step: Step | None = None,
    run_ms: tuple[float, ...] = (),
    tensors: tuple[TensorSummary, ...] = (),
) -> ExploreResult:
    return ExploreResult(
        backend=reading.backend,
        model=model,
        name=name,
        source=source,
        form=reading.form,
        layers=reading.layers,
        io=reading.io,
        phase=step.phase if step else reading.phase,
        batch_size=step.batch_size if step else reading.batch_size,
        input_length=step.input_length if step else reading.input_length,
        run_ms=run_ms,
        ceilings=ceilings or Ceilings(),
        patterns=slow_patterns(reading.layers),
        notes=list(reading.notes),
        tensors=tensors,
    )


# ---- running ---------------------------------------------------------------------------------------------------------


@contextmanager
def _loaded(engine: Engine, rank: int) -> Iterator[Any]:
    executor = engine.executor(rank)
    try:
        yield executor
    finally:
        executor.close()


def _recorded(
    executor: Any, step: Step, num_runs: int, warm_up: int, trace: Path | None
) -> tuple[Reading, tuple[float, ...]]:
    if executor.backend == "torch":
        from .recording.torch import record_torch

        return record_torch(executor, step, num_runs=num_runs, warm_up=warm_up, trace=trace)
    if executor.backend == "tensorrt":
        from .recording.tensorrt import record_tensorrt

        return record_tensorrt(executor, step, num_runs=num_runs, warm_up=warm_up, trace=trace)
    raise EngineError(
        "ONNX Runtime records only what was loaded with its profiler on.",
        where=executor.backend,
        remedy="Profile the engine folder: trtbench explore ENGINE --profile.",
    )


def _tensors(executor: Any, step: Step) -> tuple[TensorSummary, ...]:
    from .recording.tensors import part_tensors

    return summaries(part_tensors(executor, step))


def _tensors_of_engine(engine: Engine, rank: int, step: Step) -> tuple[TensorSummary, ...]:
    _check_limits(engine, step)
    with _loaded(engine, rank) as executor:
        return _tensors(executor, step)


def _check_limits(engine: Engine, step: Step) -> None:
    config, build = engine.config.pretrained_config, engine.config.build_config
    if config.mapping.tp_size > 1:
        raise RequestError(
            f"The engine is split over {config.mapping.tp_size} ranks, which must run together; one cannot be "
            "run alone.",
            where=str(engine.directory),
            remedy="Leave --profile and --tensors out to look at one rank, or take an engine of one rank.",
        )
    if step.batch_size > build.max_batch_size:
        raise RequestError(
            f"batch_size is {step.batch_size}, and the engine takes at most {build.max_batch_size} rows.",
            where="batch_size",
            remedy="Choose fewer rows, or build with a larger --max_batch_size.",
        )
    most = build.resolved_max_seq_len(config)
    if step.past + step.new > most:
        longest = most - 1 if step.phase == DECODE else most
        raise RequestError(
            f"input_length is {step.input_length}, and a {step.phase} step of this engine reaches {longest} tokens.",
            where="input_length",
            remedy=f"Choose at most {longest}, or build with a larger --max_seq_len.",
        )


def _main_dtype(reading: Reading) -> str:
    """Return the type in which most matrix products compute, for the ceiling."""
    from collections import Counter

    counted = Counter(
        tensor.dtype
        for layer in reading.layers
        if layer.kind == "matmul"
        for tensor in layer.inputs[:1]
        if tensor.dtype in ("float32", "float16", "bfloat16")
    )
    return str(counted.most_common(1)[0][0]) if counted else "float32"
