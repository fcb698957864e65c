"""From our build configuration to TensorRT's, option by option."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import BuildError
from ...network.signature import TensorSpec
from ...specs import BuildConfig
from .bindings_check import created
from .plan_layout import PAGED
from .profiles import PhaseProfile
from .resolution import form_of


def network_flags(trt: Any) -> int:
    """Return the flags of a network; 11.x networks are strongly typed whether asked or not."""
    flag = trt.NetworkDefinitionCreationFlag
    return (1 << int(flag.STRONGLY_TYPED)) | (1 << int(flag.PREFER_AOT_PYTHON_PLUGINS))


def builder_config(trt: Any, builder: Any, options: BuildConfig) -> Any:
    """Return an `IBuilderConfig` with everything but profiles, timings and the progress monitor."""
    config = created(builder.create_builder_config, "a builder configuration")
    config.builder_optimization_level = options.opt_level
    config.profiling_verbosity = getattr(trt.ProfilingVerbosity, options.profiling_verbosity.upper())
    config.tiling_optimization_level = getattr(trt.TilingOptimizationLevel, options.tiling.upper())
    config.hardware_compatibility_level = getattr(
        trt.HardwareCompatibilityLevel, options.hardware_compatibility.upper()
    )
    if options.aux_streams is not None:
        config.max_aux_streams = options.aux_streams
    if options.workspace_limit_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_limit_mib << 20)
    if options.compute_dtype == "float32":  # TensorRT would round products to TF32, 10 bits of mantissa, by default
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    if options.strip_plan:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
    if options.weight_streaming:
        config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
    if options.log_level == "verbose":
        config.set_flag(trt.BuilderFlag.MONITOR_MEMORY)
    if form_of(options) == PAGED:  # the cache is a plugin's output that shares an input's memory
        config.set_preview_feature(trt.PreviewFeature.ALIASED_PLUGIN_IO_10_03, True)
    return config


def add_profiles(builder: Any, config: Any, profiles: Sequence[PhaseProfile], io: Sequence[TensorSpec]) -> None:
    """Give the configuration one optimization profile for each of `profiles`, in order.

    Raises
    ------
    BuildError
        When TensorRT refuses one.
    """
    for number, phase in enumerate(profiles):
        profile = created(builder.create_optimization_profile, "an optimization profile")
        for spec in io:
            shapes = phase.shapes(spec) if spec.mode == "input" else None
            if shapes is None:
                continue
            try:
                profile.set_shape(spec.name, *shapes)
            except ValueError as error:
                raise _refused(f"{spec.name} {shapes}", str(error)) from error
        if config.add_optimization_profile(profile) != number:
            raise _refused(str(phase), None)


def _refused(what: str, details: str | None) -> BuildError:
    return BuildError(
        f"TensorRT refuses an optimization profile: {what}.",
        where="profiles",
        remedy="Look at the limits and buckets of the build; each least size must be at most the largest.",
        details=details,
    )
