"""Another checkpoint's weights in the plans of an engine folder: nothing is timed or compiled again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ...checkpoint import open_checkpoint
from ...network.export import ExportedNetwork
from ...network.referenced import ReferencedNetwork
from ...specs import BuildConfig, ModelConfig
from ...storage import storage_error
from ..protocol import BuildReporter
from .bindings_check import created, tensorrt
from .error_recorder import ErrorLog, error_recorder
from .logger import make_logger
from .onnx_source import SCRATCH_NAME, network_of, with_capacity
from .plan_building import write_plan_memory
from .plan_file import deserialized
from .plan_layout import NETWORK_NAME, PlanLayout, read_layout, write_layout
from .plans import plans_of, splits_of
from .profiles import PlannedFile
from .refitting import Refit


class RefittedPlans:
    """The plans of one rank with the weights of another checkpoint.

    Parameters
    ----------
    engine_dir
        The engine folder whose plans are taken; its model is the checkpoint's but for the weights.
    checkpoint_dir, rank
        Where the weights are.
    options
        The build configuration of the engine.
    report
        Where progress goes.
    """

    def __init__(self, engine_dir: Path, checkpoint_dir: Path, rank: int, options: BuildConfig, report: BuildReporter):
        self._engine_dir, self._rank, self._options, self._report = engine_dir, rank, options, report
        with report.phase("load checkpoint"):
            checkpoint = open_checkpoint(checkpoint_dir)
            self.config: ModelConfig = checkpoint.config.replace(mapping=checkpoint.config.mapping.with_rank(rank))
            self._weights = checkpoint.rank(rank)
        self.layout: PlanLayout = read_layout(engine_dir, rank)

    def write(self, output_dir: Path) -> None:
        """Write plans, layout and, where the engine has one, the portable network with the new weights.

        Plans without weights stay without: they are the same, and get the new ones whenever they are loaded.
        """
        planned = plans_of(self._options, self.config, self._rank)
        networks: dict[int, ExportedNetwork] = {}
        if self.layout.stripped:
            self._copy(output_dir)
        else:
            for files in planned:
                network = self._network(splits_of(self._options, self.config, files), networks)
                self._refit(network, files, output_dir)
        if self._options.visualize and self._rank == 0:
            network = self._network(0, networks)
            with self._report.phase("write portable network"):
                with_capacity(network, planned[0][0].capacity).write(output_dir / NETWORK_NAME, self._weights)
        write_layout(output_dir, self._rank, self.layout)

    def _network(self, splits: int, networks: dict[int, ExportedNetwork]) -> ExportedNetwork:
        if splits not in networks:
            with self._report.phase("export network"):
                networks[splits] = network_of(self.config, self._options, self._report.log, splits=splits)
        return networks[splits]

    def _copy(self, output_dir: Path) -> None:
        with self._report.phase("copy plans"):
            for plan in self.layout.plans:
                try:
                    shutil.copyfile(self._engine_dir / plan.file, output_dir / plan.file)
                except OSError as error:
                    raise storage_error(error, output_dir / plan.file, "copy the plan") from error
        self._report.log("info", "The plans hold no weights: they are the same, and get the new ones when loaded.")

    def _refit(self, network: ExportedNetwork, files: list[PlannedFile], output_dir: Path) -> None:
        report = self._report
        with report.phase("lay out weights"):
            fixed = with_capacity(network, files[0].capacity)
            source = ReferencedNetwork(fixed, self._weights, output_dir / SCRATCH_NAME, each=report.check_cancelled)
        with source:
            for one in files:
                with report.phase(f"refit {one.name}"):
                    memory = self._refitted(one, source)
                with report.phase("write engine"):
                    write_plan_memory(output_dir / one.name, memory, report)

    def _refitted(self, planned: PlannedFile, source: ReferencedNetwork) -> Any:
        """Return the serialized plan with the weights of `source`."""
        trt, errors = tensorrt(), ErrorLog()
        logger = make_logger(trt, self._report.log)
        runtime = created(lambda: trt.Runtime(logger), "a runtime")
        runtime.error_recorder = recorder = error_recorder(trt, errors)
        path = self._engine_dir / planned.name
        engine = deserialized(trt, runtime, path)
        if engine is None:
            raise errors.fault("TensorRT could not load the plan.", where=str(path))
        engine.error_recorder = recorder
        refit = Refit(trt, engine, logger, errors, str(path), last=False)
        refit.from_tensors(source.model_bytes(), ((name, content.tensor) for name, content in source.items()))
        config = created(engine.create_serialization_config, "a serialization configuration")
        config.set_flag(trt.SerializationFlag.INCLUDE_REFIT)  # so that the result can be refitted in turn
        memory = engine.serialize_with_config(config)
        if memory is None:
            raise errors.fault("TensorRT could not serialize the refitted plan.", where=str(path))
        return memory
