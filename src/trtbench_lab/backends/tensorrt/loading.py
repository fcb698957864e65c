"""From an engine folder to an executor: check, deserialize, give weights, tell and take the memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...errors import EngineError
from ...network.signature import CAPACITY, TensorSpec, paged_signature, signature
from ...specs import ModelConfig
from ..protocol import EngineDescription
from .bindings_check import created, tensorrt
from .communicator import checked_group
from .conformance.refusals import graphs_failed
from .cuda import CudaDevice, cuda_device
from .device_memory import MemoryPlan, memory_plan, refuse_too_large, refuse_too_large_files
from .error_recorder import ErrorLog, error_recorder
from .executor import Held, TensorRTExecutor
from .logger import make_logger
from .plan import LoadedPlan, described
from .plan_file import deserialized
from .plan_layout import PADDED, PlanFile, PlanLayout, read_layout
from .refitting import Refit
from .weight_streaming import apply_budget, refuse_budget

LogSink = Callable[[str, str], None]


def load_executor(
    engine_dir: Path,
    rank: int,
    engine_config: EngineDescription,
    *,
    device: str | None = None,
    communicator: Any | None = None,
    weight_streaming_budget: int | str | None = None,
    capacities: Sequence[int] | None = None,
    cuda_graphs: bool | None = None,
    reader: str = "map",
    log: LogSink | None = None,
    cuda: CudaDevice | None = None,
) -> TensorRTExecutor:
    """Load one rank of an engine folder.

    Parameters
    ----------
    engine_dir, rank, engine_config
        The folder, which the caller has verified; the rank; its configuration.
    device
        Torch's name of the GPU; None takes the current one.
    communicator
        NCCL communicator of the tensor-parallel group (see `communicator.nccl_group`); needed above one rank.
    weight_streaming_budget
        Bytes of weights to keep on the device, a share of them (``"25%"``), or ``"auto"``; for engines built with
        weight_streaming.
    capacities
        Load only the plans with these cache capacities; None loads all that fit, the largest in any case.
    cuda_graphs
        Capture repeated decode steps; None does unless their conformance test failed on this machine.
    reader
        ``"map"`` or ``"stream"``: how plans are read (see `plan_file.deserialized`).
    log
        Takes (level, line): TensorRT's messages and what memory is needed, before it is taken.
    cuda
        Takes the place of the GPU in tests.

    Raises
    ------
    EngineError
        When TensorRT is not usable here, a file is damaged, or the memory does not suffice.
    EngineMismatchError
        When plans, configuration or communicator do not belong together.
    """
    config = engine_config.pretrained_config
    config = config.replace(mapping=config.mapping.with_rank(rank))
    layout = read_layout(engine_dir, rank)
    group = checked_group(config.mapping, communicator, str(engine_dir))
    if not layout.weight_streaming:
        refuse_budget(weight_streaming_budget, str(engine_dir))
    trt = tensorrt()
    cuda = cuda or cuda_device(device)
    sink = log or (lambda level, line: None)
    files = _chosen(layout, capacities, engine_dir, cuda, sink)
    errors = ErrorLog()
    logger, recorder = make_logger(trt, sink), error_recorder(trt, errors)
    runtime = created(lambda: trt.Runtime(logger), "a runtime")
    runtime.error_recorder = recorder
    io = executor_io(config, layout)
    plans: list[LoadedPlan] = []
    source = _WeightSource(engine_dir, rank, engine_config, layout)
    for file in files:
        path = engine_dir / file.file
        engine = deserialized(trt, runtime, path, reader=reader)
        if engine is None:
            raise errors.fault(
                "TensorRT could not load the plan.",
                where=str(path),
                remedy="A plan loads with the version and on the kind of GPU that built it: build it again here.",
            )
        engine.error_recorder = recorder
        if layout.stripped:
            source.give(Refit(trt, engine, logger, errors, file.file), file)
        plans.append(described(trt, engine, file, io))
    if layout.weight_streaming:
        apply_budget([plan.engine for plan in plans], weight_streaming_budget, where=str(engine_dir))
    needed = memory_plan(plans, cuda.free_bytes(), streaming=layout.weight_streaming)
    sink("info", needed.sentence())
    refuse_too_large(needed, cuda.name(), str(engine_dir))
    capsule = group.capsule() if group is not None else None
    return _executor(
        Held(plans, runtime, recorder, logger, capsule, group),
        layout,
        io,
        config,
        cuda,
        errors=errors,
        memory=needed,
        place=(engine_dir, rank),
        cuda_graphs=not graphs_failed() if cuda_graphs is None else cuda_graphs,
    )


def executor_io(config: ModelConfig, layout: PlanLayout) -> tuple[TensorSpec, ...]:
    """Return what an executor of such an engine binds; of the padded form every plan fixes the capacity."""
    if layout.form == PADDED:
        return signature(config, config.mapping, layout.compute_dtype, capacity=CAPACITY)
    return paged_signature(
        config,
        config.mapping,
        layout.compute_dtype,
        tokens_per_block=layout.tokens_per_block or 0,
        cache_dtype=layout.cache_dtype,
    )


def _executor(
    held: Held,
    layout: PlanLayout,
    io: tuple[TensorSpec, ...],
    config: ModelConfig,
    cuda: CudaDevice,
    *,
    errors: ErrorLog,
    memory: MemoryPlan,
    place: tuple[Path, int],
    cuda_graphs: bool,
) -> TensorRTExecutor:
    directory, rank = place
    return TensorRTExecutor(
        held,
        layout,
        io,
        config,
        cuda,
        errors=errors,
        memory_plan=memory,
        directory=directory,
        rank=rank,
        uses_graphs=cuda_graphs,
    )


def _chosen(
    layout: PlanLayout, capacities: Sequence[int] | None, engine_dir: Path, cuda: CudaDevice, log: LogSink
) -> list[PlanFile]:
    """Return the plans to load: those asked for, else all whose weights fit beside each other, the largest first."""
    held = layout.capacities
    if capacities is not None:
        if unknown := sorted(set(capacities) - set(held)):
            raise EngineError(
                f"The engine has no plan with a cache capacity of {unknown[0]}.",
                where=str(engine_dir),
                remedy=f"It has {', '.join(map(str, held)) or 'none: it is paged'}.",
            )
        files = [plan for plan in layout.plans if plan.capacity in capacities]
        _refuse(files, layout, engine_dir, cuda)
        return files
    if not held:
        _refuse(list(layout.plans), layout, engine_dir, cuda)
        return list(layout.plans)
    kept: list[PlanFile] = []
    for capacity in reversed(held):
        more = [plan for plan in layout.plans if plan.capacity == capacity]
        try:
            _refuse([*kept, *more], layout, engine_dir, cuda)
        except EngineError:
            if not kept:
                raise
            log("warning", f"The plan with a cache capacity of {capacity} is left out: memory for its weights lacks.")
            continue
        kept += more
    return kept


def _refuse(files: Sequence[PlanFile], layout: PlanLayout, engine_dir: Path, cuda: CudaDevice) -> None:
    if layout.weight_streaming:
        return  # the weights may stay on the host
    nbytes = sum((engine_dir / file.file).stat().st_size for file in files)
    refuse_too_large_files(nbytes, cuda.free_bytes(), cuda.name(), str(engine_dir))


class _WeightSource:
    """Where the weights of stripped plans come from."""

    def __init__(self, engine_dir: Path, rank: int, engine_config: EngineDescription, layout: PlanLayout):
        self._dir, self._rank, self._config, self._layout = engine_dir, rank, engine_config, layout

    def give(self, refit: Refit, file: PlanFile) -> None:
        """Refit one plan."""
        network = self._dir / self._layout.network if self._layout.network else None
        if network is not None and network.is_file():
            refit.from_network(network)
            return
        from .onnx_source import refit_source

        directory = getattr(self._config, "checkpoint", {}).get("directory")
        if not directory or not Path(directory).is_dir():
            raise EngineError(
                f"The plan holds no weights, and the checkpoint they come from is not at {directory!r}.",
                where=str(self._dir / file.file),
                remedy="Put the checkpoint back there, or build the engine again without strip_plan.",
            )
        source = refit_source(Path(directory), self._rank, self._config.build_config, file.file)
        refit.from_tensors(source.proto, source.initializers())
