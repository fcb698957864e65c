"""Which fields of one request contradict each other."""

from __future__ import annotations

from collections.abc import Iterator

from ..conflicts import Conflict, rule
from ..mapping import Mapping
from ..quality import SUMMARY_MEASURES
from ..requests import BuildSpec, CompareSpec, ConvertSpec, HistorySpec, QuantizeSpec, RunSpec, SummarizeSpec


@rule(ConvertSpec, Mapping)
def convert_shares_embedding(spec: ConvertSpec, mapping: Mapping) -> Iterator[Conflict]:
    divided = spec.use_parallel_embedding and spec.embedding_sharding_dim == 0
    if spec.share_embedding_table and mapping.world_size > 1 and not divided:
        yield Conflict(
            ("ConvertSpec.share_embedding_table", "ConvertSpec.use_parallel_embedding"),
            f"On {mapping.world_size} ranks the embedding table can be shared with lm_head only where both are "
            "divided along the vocabulary.",
            "Use use_parallel_embedding with embedding_sharding_dim 0, or leave share_embedding_table off.",
            {"ConvertSpec.use_parallel_embedding": True, "ConvertSpec.embedding_sharding_dim": 0},
            ({"ConvertSpec.share_embedding_table": False},),
        )


@rule(ConvertSpec)
def convert_quantizes_or_not(spec: ConvertSpec) -> Iterator[Conflict]:
    if spec.use_weight_only:
        return
    for name in ("weight_only_precision", "group_size", "quantize_lm_head", "exclude_modules"):
        if spec.given(name) and getattr(spec, name) not in (None, False):
            yield Conflict(
                (f"ConvertSpec.{name}", "ConvertSpec.use_weight_only"),
                f"{name} says how weights are quantized, and use_weight_only is off.",
                "Add use_weight_only.",
                {"ConvertSpec.use_weight_only": True},
                severity="warning",
            )


@rule(ConvertSpec)
def convert_has_one_quantization(spec: ConvertSpec) -> Iterator[Conflict]:
    if spec.smoothquant is not None and spec.use_weight_only:
        yield Conflict(
            ("ConvertSpec.smoothquant", "ConvertSpec.use_weight_only"),
            "SmoothQuant (smoothquant) and weight-only quantization (use_weight_only) exclude each other: one layer "
            "has one kind of weights.",
            "Leave smoothquant out.",
            {"ConvertSpec.smoothquant": None},
            ({"ConvertSpec.use_weight_only": False},),
        )
    for name in ("per_token", "per_channel"):
        if getattr(spec, name) and spec.smoothquant is None:
            yield Conflict(
                (f"ConvertSpec.{name}", "ConvertSpec.smoothquant"),
                f"{name} chooses the scales of SmoothQuant, and smoothquant is not given.",
                f"Leave {name} out.",
                {f"ConvertSpec.{name}": False},
            )


@rule(ConvertSpec)
def convert_of_this_version(spec: ConvertSpec) -> Iterator[Conflict]:
    if spec.source.endswith(".nemo"):
        yield Conflict(
            ("ConvertSpec.source",),
            "NeMo files are not available in this version.",
            "Available: Hugging Face models, as a folder or by their id on the hub.",
        )


@rule(ConvertSpec)
def convert_factor(spec: ConvertSpec) -> Iterator[Conflict]:
    scaling = spec.rotary_scaling
    if scaling is None:
        return
    factor, kind = scaling.get("factor"), scaling.get("rope_type") or scaling.get("type")
    if kind not in ("linear", "dynamic", "llama3"):
        yield Conflict(
            ("ConvertSpec.rotary_scaling",),
            f"rotary_scaling cannot be of type {kind!r}.",
            "Choose linear or dynamic.",
            {"ConvertSpec.rotary_scaling": None},
        )
    if not isinstance(factor, int | float) or isinstance(factor, bool) or not factor > 1:
        yield Conflict(
            ("ConvertSpec.rotary_scaling",),
            f"The factor of rotary_scaling must be above 1, and it is {factor!r}.",
            "Give a factor above 1, or leave rotary_scaling out.",
            {"ConvertSpec.rotary_scaling": None},
        )


_MODELOPT = ("fp8", "int4_awq", "w4a8_awq")
_GROUPED = ("int4_wo", "int8_wo", "int4_awq", "int4_gptq", "w4a8_awq")
# Options of one format: field → formats that it means something to.
_OF_FORMAT: dict[str, tuple[str, ...]] = {
    "group_size": _GROUPED,
    "smoothquant": ("int8_sq",),
    "per_token": ("int8_sq",),
    "per_channel": ("int8_sq",),
    "zero_point": ("int4_gptq",),
    "act_order": ("int4_gptq",),
    "fp8_scales": ("fp8",),
}


@rule(QuantizeSpec)
def quantize_formats(spec: QuantizeSpec) -> Iterator[Conflict]:
    defaults = {info.name: info.default for info in spec.options()}
    for name, formats in _OF_FORMAT.items():
        if spec.search:  # it tries several formats, each with its options
            continue
        value, default = getattr(spec, name), defaults[name]
        if value == default or spec.qformat in formats:
            continue
        whose = " and ".join([", ".join(formats[:-1]), formats[-1]]) if len(formats) > 1 else formats[0]
        yield Conflict(
            (f"QuantizeSpec.{name}", "QuantizeSpec.qformat"),
            f"{name} belongs to qformat {whose}, and qformat is {spec.qformat}.",
            f"Leave {name} out, or choose another qformat.",
            {f"QuantizeSpec.{name}": default},
            ({"QuantizeSpec.qformat": formats[0]},),
        )


@rule(QuantizeSpec)
def given_scales_are_all_there_is(spec: QuantizeSpec) -> Iterator[Conflict]:
    if spec.fp8_scales is None:
        return
    off = ({"QuantizeSpec.fp8_scales": None},)
    if spec.kv_cache_dtype == "int8":
        yield Conflict(
            ("QuantizeSpec.kv_cache_dtype", "QuantizeSpec.fp8_scales"),
            "fp8_scales holds no scales of an INT8 K/V cache.",
            "Use kv_cache_dtype fp8, or leave it out.",
            {"QuantizeSpec.kv_cache_dtype": "fp8"},
            off,
        )
    for name, plain, why in (
        ("search", False, "search measures scales of its own"),
        ("quantizer", "auto", "quantizer modelopt finds scales of its own"),
    ):
        if getattr(spec, name) not in (plain, "ours"):
            yield Conflict(
                (f"QuantizeSpec.{name}", "QuantizeSpec.fp8_scales"),
                f"fp8_scales gives the scales, and {why}.",
                f"Leave {name} out.",
                {f"QuantizeSpec.{name}": plain},
                off,
            )


@rule(QuantizeSpec)
def modelopt_has_its_formats(spec: QuantizeSpec) -> Iterator[Conflict]:
    if spec.quantizer != "modelopt" or (spec.qformat in _MODELOPT and not spec.search):
        return
    asked = "search tries formats that it does not do" if spec.search else f"qformat is {spec.qformat}"
    yield Conflict(
        ("QuantizeSpec.quantizer", "QuantizeSpec.search" if spec.search else "QuantizeSpec.qformat"),
        f"quantizer modelopt does {', '.join(_MODELOPT[:-1])} and {_MODELOPT[-1]}, and {asked}.",
        "Leave quantizer at auto.",
        {"QuantizeSpec.quantizer": "auto"},
        ({"QuantizeSpec.search": False} if spec.search else {"QuantizeSpec.qformat": _MODELOPT[0]},),
    )


@rule(BuildSpec, Mapping)
def build_world(spec: BuildSpec, mapping: Mapping) -> Iterator[Conflict]:
    if spec.world_size is not None and spec.world_size != mapping.world_size:
        yield Conflict(
            ("BuildSpec.world_size", "Mapping.world_size"),
            f"world_size {spec.world_size} was asked for, and the checkpoint was made for {mapping.world_size}.",
            f"Convert again for {spec.world_size} ranks, or leave world_size out.",
            {"BuildSpec.world_size": mapping.world_size},
        )


@rule(RunSpec)
def run_streams_one_beam(spec: RunSpec) -> Iterator[Conflict]:
    if spec.streaming and spec.sampling.num_beams > 1:
        yield Conflict(
            ("RunSpec.streaming", "SamplingConfig.num_beams"),
            f"With {spec.sampling.num_beams} beams the best text is known only at the end, so it cannot be streamed.",
            "Leave streaming off, or set num_beams to 1.",
            {"RunSpec.streaming": False},
            ({"SamplingConfig.num_beams": 1},),
        )


@rule(SummarizeSpec)
def summarize_something(spec: SummarizeSpec) -> Iterator[Conflict]:
    if not spec.test_trt_llm and not spec.test_hf:
        yield Conflict(
            ("SummarizeSpec.test_trt_llm", "SummarizeSpec.test_hf"),
            "Neither the engine (test_trt_llm) nor Hugging Face (test_hf) is to be scored.",
            "Enable one of them.",
            {"SummarizeSpec.test_trt_llm": True},
            ({"SummarizeSpec.test_hf": True},),
        )
    if spec.test_trt_llm and spec.engine_dir is None:
        yield Conflict(
            ("SummarizeSpec.engine_dir", "SummarizeSpec.test_trt_llm"),
            "The engine is to be scored, and engine_dir is missing.",
            "Give engine_dir, or only --test_hf with hf_model_dir.",
            {"SummarizeSpec.test_trt_llm": False} if spec.test_hf else None,
        )
    if spec.test_hf and not spec.hf_model_dir and spec.engine_dir is None:
        yield Conflict(
            ("SummarizeSpec.hf_model_dir", "SummarizeSpec.test_hf"),
            "Hugging Face is to be scored, and neither hf_model_dir nor an engine that names its source is given.",
            "Give hf_model_dir.",
        )
    if spec.check_accuracy and not spec.test_trt_llm:
        yield Conflict(
            ("SummarizeSpec.check_accuracy", "SummarizeSpec.test_trt_llm"),
            "check_accuracy looks at the engine's rouge1, and the engine is not scored.",
            "Enable test_trt_llm, or leave check_accuracy off.",
            {"SummarizeSpec.check_accuracy": False},
            ({"SummarizeSpec.test_trt_llm": True},),
        )


@rule(SummarizeSpec)
def summarize_drops_against_hf(spec: SummarizeSpec) -> Iterator[Conflict]:
    if not spec.max_drop:
        return
    others = [name for name in spec.max_drop if name not in SUMMARY_MEASURES]
    if others:
        yield Conflict(
            ("SummarizeSpec.max_drop",),
            f"Summaries say nothing about {', '.join(others)}.",
            "Set limits on rouge1, rouge2, rougeL, rougeLsum or entities; the others belong to the verb compare.",
        )
    if not (spec.test_hf and spec.test_trt_llm):
        yield Conflict(
            ("SummarizeSpec.max_drop", "SummarizeSpec.test_hf"),
            "max_drop compares the engine with Hugging Face, and one of them is not scored.",
            "Enable test_hf and test_trt_llm.",
            {"SummarizeSpec.test_hf": True, "SummarizeSpec.test_trt_llm": True},
            ({"SummarizeSpec.max_drop": {}},),
        )


@rule(CompareSpec)
def compare_one_way(spec: CompareSpec) -> Iterator[Conflict]:
    if (spec.per_layer or spec.bisect) and spec.quality.is_asked:
        yield Conflict(
            ("CompareSpec.per_layer", "QualityConfig.metrics"),
            "Layers (per_layer, bisect) and quality (metrics, max_drop) are comparisons of their own.",
            "Ask for one of them at a time.",
            {"CompareSpec.per_layer": False, "CompareSpec.bisect": False},
        )


@rule(HistorySpec)
def history_compares_some(spec: HistorySpec) -> Iterator[Conflict]:
    if spec.compare and len(spec.ids) == 1:
        yield Conflict(
            ("HistorySpec.compare", "HistorySpec.ids"),
            "A comparison needs two results or more, and one is named.",
            "Name another result.",
            {"HistorySpec.compare": False},
        )
