"""Builds engines with TensorRT from the portable ONNX network, and loads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...checkpoint import open_checkpoint
from ...network.export import ExportedNetwork
from ...network.referenced import ReferencedNetwork
from ...network.signature import PagedForm
from ...specs import BuildConfig, ModelConfig
from ..protocol import Availability, BuildReporter, EngineDescription, Resolution
from . import resolution, timing_cache
from .bindings_check import availability, tensorrt, tensorrt_version
from .conformance.refusals import refuse_failed
from .gpu import current_gpu, machine_key, runs_on
from .logger import make_logger
from .onnx_source import SCRATCH_NAME, checked, network_of, with_capacity
from .plan_building import BuildSession, write_plan
from .plan_layout import NETWORK_NAME, PADDED, PlanLayout, write_layout
from .plans import plans_of, splits_of
from .profiles import PlannedFile

if TYPE_CHECKING:
    from ...network.communicator import Communicator
    from ..protocol import Executor


@dataclass(frozen=True)
class _Description:
    """What a load reads of an engine folder's configuration, before there is one."""

    pretrained_config: ModelConfig
    build_config: BuildConfig


class TensorRTBuilder:
    """See `backends.protocol.Builder`."""

    backend = "tensorrt"
    keeps_timing_cache = True

    def version(self) -> str:
        """Return the version of TensorRT; plans of another version do not load."""
        return f"tensorrt {tensorrt_version()}"

    def available(self) -> Availability:
        """Say whether bindings, libraries and a GPU are here."""
        return availability()

    def machine_key(self) -> str:
        """Return the processor's family and the GPU's name and compute capability: kernels are chosen for that GPU."""
        return machine_key()

    def resolve(self, model_config: ModelConfig, build_config: BuildConfig) -> Resolution:
        """Settle the configuration; see the protocol."""
        settled = resolution.resolve(model_config, build_config, current_gpu())
        refusals = refuse_failed(model_config, settled.build_config)
        return Resolution(settled.build_config, [*settled.notes, *refusals])

    def runs_here(self, built_on: str, build_config: BuildConfig) -> bool:
        """Whether an engine with the `machine_key` `built_on` runs here too: some are built for several GPUs."""
        return runs_on(machine_key(), built_on, build_config.hardware_compatibility)

    def build(
        self, checkpoint_dir: Path, rank: int, build_config: BuildConfig, output_dir: Path, report: BuildReporter
    ) -> None:
        """Write the plans of one rank, their layout, and ``model.cache``."""
        with report.phase("load checkpoint"):
            checkpoint = open_checkpoint(checkpoint_dir)
            config = checkpoint.config.replace(mapping=checkpoint.config.mapping.with_rank(rank))
            weights = checkpoint.rank(rank)
        with report.phase("start TensorRT"):
            trt = tensorrt()
            logger = make_logger(trt, report.log)
            key = timing_cache.cache_key(tensorrt_version(), current_gpu())
            register_plugins(build_config)
        session = BuildSession(trt, logger, build_config, report, output_dir / timing_cache.FILE_NAME, key)
        planned = plans_of(build_config, config, rank)
        networks: dict[int, ExportedNetwork] = {}
        debug_tensors: list[str] = []
        for files in planned:
            splits = splits_of(build_config, config, files)
            if splits not in networks:
                with report.phase("export network"):
                    networks[splits] = network_of(config, build_config, report.log, splits=splits)
            debug_tensors = self._build_plans(session, networks[splits], weights, files, output_dir)
        if build_config.visualize and rank == 0:
            with report.phase("write portable network"):
                with_capacity(networks[0], planned[0][0].capacity).write(output_dir / NETWORK_NAME, weights)
        described = [one.described() for files in planned for one in files]
        layout = layout_of(build_config, config, described, debug_tensors)
        write_layout(output_dir, rank, layout)
        self._finish(output_dir, rank, config, build_config, stripped=layout.stripped, report=report)

    def refit(
        self,
        engine_dir: Path,
        checkpoint_dir: Path,
        rank: int,
        build_config: BuildConfig,
        output_dir: Path,
        report: BuildReporter,
    ) -> None:
        """Write the plans of `engine_dir`, built with `build_config`, with the weights of `checkpoint_dir`."""
        from .refit_build import RefittedPlans

        refitted = RefittedPlans(engine_dir, checkpoint_dir, rank, build_config, report)
        refuse_failed(refitted.config, build_config)
        refitted.write(output_dir)
        stripped = refitted.layout.stripped
        self._finish(output_dir, rank, refitted.config, build_config, stripped=stripped, report=report)

    def _finish(
        self,
        output_dir: Path,
        rank: int,
        config: ModelConfig,
        build_config: BuildConfig,
        *,
        stripped: bool,
        report: BuildReporter,
    ) -> None:
        """Run what was written once, where one rank alone can."""
        if config.mapping.world_size == 1 and not stripped:
            with report.phase("verify engine"):
                self._verify(output_dir, rank, config, build_config)
        elif config.mapping.world_size > 1:
            report.log("info", "The engine was not run: its ranks run together only.")
        else:
            report.log("info", "The engine was not run: it gets its weights when it is loaded.")

    def load(
        self,
        engine_dir: Path,
        rank: int,
        engine_config: EngineDescription,
        *,
        device: str | None = None,
        communicator: Communicator | None = None,
        **options: Any,
    ) -> Executor:
        """Load one rank; see `loading.load_executor`, which takes `options`."""
        from .loading import load_executor

        return load_executor(engine_dir, rank, engine_config, device=device, communicator=communicator, **options)

    def _build_plans(
        self,
        session: BuildSession,
        network: ExportedNetwork,
        weights: Any,
        planned: Sequence[PlannedFile],
        output_dir: Path,
    ) -> list[str]:
        """Build the plans that share one network; return the names of its debug tensors."""
        report, marked = session.report, []
        with report.phase("lay out weights"):
            fixed = with_capacity(network, planned[0].capacity)
            scratch = output_dir / SCRATCH_NAME
            source = ReferencedNetwork(fixed, weights, scratch, each=report.check_cancelled)
        with source:
            read, made = source.bytes_from("checkpoint"), source.bytes_from("scratch")
            report.log(
                "info",
                f"Weights: {read:,} bytes are read where the checkpoint has them, {made:,} were converted into a "
                "mapped file.",
            )
            with report.phase("check network"):
                checked(source.model_bytes())
            for one in planned:
                marked = write_plan(session, source, one, output_dir / one.name)
                report.check_cancelled()
        return marked

    def _verify(self, output_dir: Path, rank: int, config: ModelConfig, build_config: BuildConfig) -> None:
        from ..trial import paged_trial_run, trial_run
        from .inspection import inspector_name, write_inspection
        from .loading import load_executor

        executor = load_executor(output_dir, rank, _Description(config, build_config))
        try:
            run = trial_run if resolution.form_of(build_config) == PADDED else paged_trial_run
            run(executor, build_config.resolved_max_seq_len(config))
            if build_config.profiling_verbosity != "none":
                for plan in executor.plans():
                    write_inspection(plan.engine, output_dir / inspector_name(plan.file.file))
        finally:
            executor.close()


def layout_of(
    options: BuildConfig, config: ModelConfig, files: Sequence[Any], debug_tensors: Sequence[str]
) -> PlanLayout:
    """Return what a load must know of the plans."""
    form = resolution.form_of(options)
    paged = PagedForm.of(config, options.plugin_config)
    return PlanLayout(
        form=form,
        plans=tuple(files),
        compute_dtype=options.compute_dtype,
        cache_dtype=(paged.cache_dtype if paged else None) or options.compute_dtype,
        max_positions=options.resolved_max_seq_len(config),
        tokens_per_block=None if form == PADDED else options.plugin_config.tokens_per_block,
        stripped=options.strip_plan,
        weight_streaming=options.weight_streaming,
        network=NETWORK_NAME if options.strip_plan and options.visualize and config.mapping.rank == 0 else None,
        debug_tensors=tuple(debug_tensors),
    )


def register_plugins(options: BuildConfig) -> None:
    """Make the plugins that are on known to TensorRT's parser, compiled for this GPU."""
    from ...plugins.frame import register_plugins as register
    from ...plugins.registry import plugins_for

    plugins = plugins_for(options.plugin_config)
    if plugins:
        register(plugins, current_gpu().compute_capability)


def builder() -> TensorRTBuilder:
    """Return the backend's builder (see `backends.registry`)."""
    return TensorRTBuilder()
