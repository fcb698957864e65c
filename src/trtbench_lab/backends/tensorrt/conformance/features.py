"""The features that are tried, each by its own child process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from ....errors import SpecError, did_you_mean

HEAD_SIZES = (64, 96, 128)
SHARINGS = ("mha", "gqa", "mqa")
"""Query heads a K/V head: one, some, all."""

# Largest difference of logits from the float32 reference, over the reference's largest logit. float16 keeps 11 bits and
# bfloat16 8; two layers with sums of 512 products lose about 2 and 3 of them at worst. A wrong mask, head or scale
# changes logits by their own size.
BOUNDS = {"float32": 2e-3, "float16": 2e-2, "bfloat16": 6e-2}

MODEL_ALGORITHMS = {
    "smooth_quant_model/static": "W8A8_SQ_PER_TENSOR_PLUGIN",
    "smooth_quant_model/token": "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN",
    "fp8_model": "FP8",
}
"""Features of whole quantized models, and the algorithm that stands for their kind."""


@dataclass(frozen=True)
class Feature:
    """One thing that an engine may rely on.

    Attributes
    ----------
    name
        As verdicts and flags name it, for example ``"native_attention/float16/d128/gqa"``.
    title
        What is tried, as a phrase.
    probe
        Name of the function that tries it (see `probes`).
    arguments
        What the function gets.
    bound
        Largest relative difference from the reference that passes; None where nothing is compared.
    least_capability
        Compute capability from which on GPUs have it at all, as 89 for 8.9.
    gpus
        GPUs it needs.
    timeout_s
        Seconds after which the child process is ended.
    """

    name: str
    title: str
    probe: str
    arguments: dict[str, Any] = field(default_factory=dict)
    bound: float | None = None
    least_capability: int = 75
    gpus: int = 1
    timeout_s: float = 600.0

    @property
    def group(self) -> str:
        """First part of the name."""
        return self.name.partition("/")[0]


def attention_name(kind: str, dtype: str, head_size: int, sharing: str) -> str:
    """Return the name of an attention feature; `kind` is ``"native_attention"`` or ``"plugin_attention"``."""
    return f"{kind}/{dtype}/d{head_size}/{sharing}"


def _attention() -> Iterator[Feature]:
    titles = {"native_attention": "TensorRT's attention over its cache", "plugin_attention": "the paged plugin"}
    for kind, title in titles.items():
        for dtype, head_size, sharing in product(("float16", "bfloat16"), HEAD_SIZES, SHARINGS):
            yield Feature(
                attention_name(kind, dtype, head_size, sharing),
                f"{title}, {dtype}, head size {head_size}, {sharing.upper()}, garbage in the cache's tail",
                "model",
                {
                    "dtype": dtype,
                    "head_size": head_size,
                    "sharing": sharing,
                    "options": {"gpt_attention_plugin": dtype} if kind == "plugin_attention" else {},
                },
                BOUNDS[dtype],
                least_capability=80 if dtype == "bfloat16" else 75,
            )
    # 8 bits a key and value, and where one lies between two steps the last bit of float16 decides: the torch backend in
    # float16 differs from itself in float32 by 0.025 (INT8) and 0.05 (FP8), and from an engine without such a cache by
    # about twice that. A slot too many differs by the logits' own size.
    for algorithm, least, bound in (("INT8", 75, 5e-2), ("FP8", 89, 1e-1)):
        yield Feature(
            f"plugin_cache/{algorithm.lower()}",
            f"the paged plugin over an {algorithm} cache",
            "model",
            {
                "dtype": "float16",
                "quantization": {"kv_cache_quant_algo": algorithm},
                "options": {"gpt_attention_plugin": "float16"},
            },
            bound,
            least_capability=least,
        )
    for dtype in ("float16", "bfloat16"):
        for head_size in (64, 128):
            yield Feature(
                f"key_value_lengths/{dtype}/d{head_size}",
                f"IAttention.key_value_lengths on padded caches, {dtype}, head size {head_size} (not used by engines)",
                "key_value_lengths",
                {"dtype": dtype, "head_size": head_size},
                BOUNDS[dtype],
                least_capability=80 if dtype == "bfloat16" else 75,
            )


def _quantization() -> Iterator[Feature]:
    weights = {"weight_only_int8": ("W8A16", None), "weight_only_int4": ("W4A16", 128)}
    for name, (algorithm, group_size) in weights.items():
        yield Feature(
            name,
            f"{algorithm} weights through DequantizeLinear",
            "model",
            {"dtype": "float16", "quantization": {"quant_algo": algorithm, "group_size": group_size}},
            BOUNDS["float16"],
        )
    yield Feature("int8_matmul", "INT8 inputs and weights, a scale a tensor", "int8_matmul", {}, 2e-2)
    yield Feature(
        "fp8_matmul", "FP8 (E4M3) inputs and weights, a scale a tensor", "fp8_matmul", {}, 2e-2, least_capability=89
    )


def _quantized_models() -> Iterator[Feature]:
    """Whole models whose products are of 8-bit inputs: every layer, from calibration to logits.

    Where an input lies between two steps, the last bit of float16 decides how it rounds, and later layers carry that
    on: the torch backend in float16 differs from itself in float32 by 0.04 of the largest logit with INT8 inputs and by
    0.09 with FP8 ones. A product with a wrong scale or without its smoothing differs by more than twice the bound.
    """
    kinds = (
        ("smooth_quant_model/static", "SmoothQuant, a scale a tensor, TensorRT's INT8 products", 0.1, 75),
        ("smooth_quant_model/token", "SmoothQuant, scales a token and a channel, by the plugins", 0.1, 75),
        ("fp8_model", "FP8 (E4M3), a scale a tensor, TensorRT's FP8 products", 0.2, 89),
    )
    for name, title, bound, least in kinds:
        model = {"dtype": "float16", "quantization": {"quant_algo": MODEL_ALGORITHMS[name]}}
        yield Feature(name, f"a whole model: {title}", "model", model, bound, least_capability=least)


def _engines() -> Iterator[Feature]:
    one = BOUNDS["float16"]
    yield Feature("float32", "a float32 engine", "model", {"dtype": "float32"}, BOUNDS["float32"])
    yield Feature(
        "dual_profile", "prompt and decode profile in one plan", "model", {"options": {"phase_engines": "one"}}, one
    )
    yield Feature("two_engines", "prompt and decode plan apart", "model", {"options": {"phase_engines": "two"}}, one)
    yield Feature(
        "capacity_buckets", "plans for two cache capacities", "model", {"options": {"capacity_buckets": [48]}}, one
    )
    yield Feature("refit", "a plan that gets another checkpoint's weights, and is written", "refit", {}, one)
    yield Feature(
        "strip_plan", "a plan without weights, refitted when loaded", "model", {"options": {"strip_plan": True}}, one
    )
    yield Feature(
        "weight_streaming",
        "weights that stream from the host",
        "model",
        {"options": {"weight_streaming": True}, "load": {"weight_streaming_budget": 0}},
        one,
    )
    yield Feature("stream_reader", "a plan read piece by piece", "model", {"load": {"reader": "stream"}}, one)
    yield Feature("cuda_graphs", "decode steps captured and replayed", "cuda_graphs", {}, one)
    yield Feature("layer_profile", "times of each layer, and the inspector's JSON", "looking_inside", {})
    yield Feature("debug_tensors", "intermediate tensors", "looking_inside", {"options": {"enable_debug_output": True}})
    yield Feature("timing_cache", "a second build that times nothing", "timing_cache", {})
    yield Feature(
        "collectives", "all-reduce over NCCL between two ranks", "collectives", {}, 1e-6, least_capability=80, gpus=2
    )


FEATURES: tuple[Feature, ...] = (*_engines(), *_attention(), *_quantization(), *_quantized_models())


def chosen_features(wanted: Iterable[str] | None, features: tuple[Feature, ...] = FEATURES) -> tuple[Feature, ...]:
    """Return the features of that name, or of a group or prefix of that name; None means all.

    Raises
    ------
    SpecError
        For a name that is none.
    """
    if wanted is None:
        return features
    found: dict[str, Feature] = {}
    for name in wanted:
        matching = [one for one in features if one.name == name or one.name.startswith(f"{name.rstrip('/')}/")]
        if not matching:
            known = sorted({one.group for one in features})
            raise SpecError(
                f"There is no conformance feature {name!r}.", where="conformance", remedy=did_you_mean(name, known)
            )
        found |= {one.name: one for one in matching}
    return tuple(found.values())
