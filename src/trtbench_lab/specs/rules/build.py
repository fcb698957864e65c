"""Which limits and options of a build stand together."""

from __future__ import annotations

from collections.abc import Iterator

from ..build import BuildConfig
from ..conflicts import Conflict, Gpu, rule
from ..mapping import Mapping
from ..model import ModelConfig
from ..sampling import SamplingConfig


@rule(BuildConfig)
def lengths_leave_room(build: BuildConfig) -> Iterator[Conflict]:
    max_seq_len, max_input_len, max_output_len = build.max_seq_len, build.max_input_len, build.max_output_len
    if max_seq_len is None:
        return
    # A max_input_len that nobody chose is clipped by BuildConfig.resolved instead.
    if build.given("max_input_len") and max_input_len >= max_seq_len:
        yield Conflict(
            ("BuildConfig.max_input_len", "BuildConfig.max_seq_len"),
            f"max_seq_len {max_seq_len} holds prompt and output, and max_input_len {max_input_len} leaves no token "
            "for the output.",
            f"Set max_seq_len to {max_input_len + (max_output_len or 1)} or more, or max_input_len below it.",
            {"BuildConfig.max_seq_len": max_input_len + (max_output_len or 1)},
            ({"BuildConfig.max_input_len": max(1, max_seq_len - 1)},),
        )
    if max_output_len is not None and max_output_len >= max_seq_len:
        longest = (max_input_len if build.given("max_input_len") else 1) + max_output_len
        yield Conflict(
            ("BuildConfig.max_output_len", "BuildConfig.max_seq_len"),
            f"max_seq_len {max_seq_len} holds prompt and output, and max_output_len {max_output_len} leaves no token "
            "for the prompt.",
            f"Set max_seq_len to {longest} or more.",
            {"BuildConfig.max_seq_len": longest},
            ({"BuildConfig.max_output_len": max(1, max_seq_len - 1)},),
        )


@rule(BuildConfig, ModelConfig)
def positions_reach(build: BuildConfig, model: ModelConfig) -> Iterator[Conflict]:
    limit = model.max_position_embeddings
    if build.max_seq_len is None or build.max_seq_len <= limit:
        return
    if model.position_embedding_type == "learned_absolute":
        yield Conflict(
            ("BuildConfig.max_seq_len", "ModelConfig.max_position_embeddings"),
            f"max_seq_len {build.max_seq_len} goes beyond the {limit} positions that the model has learned.",
            f"Set max_seq_len to {limit}.",
            {"BuildConfig.max_seq_len": limit},
        )
    elif model.rotary_scaling is None:
        yield Conflict(
            ("BuildConfig.max_seq_len", "ModelConfig.max_position_embeddings"),
            f"max_seq_len {build.max_seq_len} goes beyond the {limit} tokens that the model was made for.",
            f"Set max_seq_len to {limit}, or convert with rotary_scaling.",
            {"BuildConfig.max_seq_len": limit},
            severity="warning",
        )


@rule(BuildConfig)
def stripped_engines_are_refitted(build: BuildConfig) -> Iterator[Conflict]:
    if build.strip_plan and not build.refit:
        yield Conflict(
            ("BuildConfig.strip_plan", "BuildConfig.refit"),
            "An engine without its weights (strip_plan) must be refitted before it runs, and refit is disabled.",
            "Enable refit.",
            {"BuildConfig.refit": True},
            ({"BuildConfig.strip_plan": False},),
        )


@rule(BuildConfig)
def weight_streaming_is_strongly_typed(build: BuildConfig) -> Iterator[Conflict]:
    if build.weight_streaming and not build.strongly_typed:
        yield Conflict(
            ("BuildConfig.weight_streaming", "BuildConfig.strongly_typed"),
            "Weight streaming works in strongly typed networks only, and strongly_typed is disabled.",
            "Enable strongly_typed, or leave weight_streaming off.",
            {"BuildConfig.strongly_typed": True},
            ({"BuildConfig.weight_streaming": False},),
        )


@rule(BuildConfig)
def tensorrt_options(build: BuildConfig) -> Iterator[Conflict]:
    for name in ("weight_streaming", "strip_plan", "refit"):
        if getattr(build, name) and build.backend in ("torch", "onnxruntime"):
            yield Conflict(
                (f"BuildConfig.{name}", "BuildConfig.backend"),
                f"{name} is a property of TensorRT engines, and backend is {build.backend}.",
                f"Set backend to tensorrt, or leave {name} off.",
                {f"BuildConfig.{name}": False},
                ({"BuildConfig.backend": "tensorrt"},),
            )


@rule(BuildConfig)
def buckets_stay_below_the_limits(build: BuildConfig) -> Iterator[Conflict]:
    limits = {
        "batch_buckets": ("max_batch_size", build.max_batch_size * build.max_beam_width),
        "length_buckets": ("max_input_len", build.max_input_len),
        "capacity_buckets": ("max_seq_len", build.max_seq_len),
    }
    for name, (limit_name, limit) in limits.items():
        beyond = [size for size in getattr(build, name) or () if limit is not None and size > limit]
        if beyond:
            yield Conflict(
                (f"BuildConfig.{name}", f"BuildConfig.{limit_name}"),
                f"{name} has {max(beyond)}, and {limit_name} ends at {limit}; larger buckets are never used.",
                f"Leave sizes above {limit} out of {name}.",
                {f"BuildConfig.{name}": tuple(size for size in getattr(build, name) if size <= (limit or size))},
                severity="warning",
            )


@rule(BuildConfig)
def compatible_engines_have_no_plugins(build: BuildConfig) -> Iterator[Conflict]:
    asked = build.plugin_config.gpt_attention_plugin not in ("auto", "disable")
    if build.hardware_compatibility != "none" and asked and build.backend in ("auto", "tensorrt"):
        yield Conflict(
            ("BuildConfig.hardware_compatibility", "PluginConfig.gpt_attention_plugin"),
            f"hardware_compatibility {build.hardware_compatibility} wants kernels for several GPUs, and the attention "
            "plugin is compiled for one architecture.",
            "Set hardware_compatibility to none.",
            {"BuildConfig.hardware_compatibility": "none"},
            ({"PluginConfig.gpt_attention_plugin": "disable"},),
        )


@rule(BuildConfig, Mapping)
def onnxruntime_has_one_rank(build: BuildConfig, mapping: Mapping) -> Iterator[Conflict]:
    if build.backend == "onnxruntime" and mapping.world_size > 1:
        yield Conflict(
            ("BuildConfig.backend", "Mapping.world_size"),
            f"The onnxruntime backend runs one rank, and the checkpoint has {mapping.world_size}.",
            "Set backend to torch, or convert with tp_size 1 and pp_size 1.",
            {"BuildConfig.backend": "torch"},
        )


@rule(BuildConfig, Mapping, Gpu)
def a_gpu_for_each_rank(build: BuildConfig, mapping: Mapping, gpu: Gpu) -> Iterator[Conflict]:
    if build.parallel_build and mapping.world_size > gpu.count:
        yield Conflict(
            ("BuildConfig.parallel_build", "Mapping.world_size"),
            f"parallel_build wants a GPU for each of {mapping.world_size} ranks, and this machine has {gpu.count}.",
            "The ranks are built one after the other.",
            {"BuildConfig.parallel_build": False},
            severity="warning",
        )


@rule(SamplingConfig, BuildConfig)
def beams_fit_engine(sampling: SamplingConfig, build: BuildConfig) -> Iterator[Conflict]:
    if sampling.num_beams > build.max_beam_width:
        yield Conflict(
            ("SamplingConfig.num_beams", "BuildConfig.max_beam_width"),
            f"num_beams {sampling.num_beams} is more than the engine's max_beam_width {build.max_beam_width}.",
            f"Build with max_beam_width {sampling.num_beams}, or ask for {build.max_beam_width} beams.",
            {"SamplingConfig.num_beams": build.max_beam_width},
            ({"BuildConfig.max_beam_width": sampling.num_beams},),
        )
