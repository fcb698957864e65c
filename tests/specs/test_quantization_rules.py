"""Which quantizations stand together, with what: each rule by a combination it allows and one it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from tests.specs.test_conflicts import OFF, OLD_GPU, model

from trtbench_lab.errors import SpecError
from trtbench_lab.specs import BuildConfig, Gpu, Mapping, PluginConfig, QuantConfig, Spec, find_conflicts
from trtbench_lab.specs.quant import WEIGHT_ALGOS, QuantAlgo
from trtbench_lab.specs.requests import ConvertSpec, QuantizeSpec

ADA, TURING = Gpu((8, 9), name="L4", count=1), OLD_GPU
SMOOTH, SMOOTH_BOTH = "W8A8_SQ_PER_TENSOR_PLUGIN", "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"
QKV, PROJ = "transformer.layers.0.attention.qkv", "transformer.layers.0.mlp.proj"


def mixed(**layers: dict[str, Any]) -> QuantConfig:
    """A recipe that differs by layer; names are qkv and proj of the first layer."""
    names = {"qkv": QKV, "proj": PROJ}
    return QuantConfig(
        quant_algo="MIXED_PRECISION", quantized_layers={names[name]: layer for name, layer in layers.items()}
    )


def quantized(quant: QuantConfig, **changes: Any) -> Spec:
    return model(quantization=quant, **changes)


def kernels(**plugins: str) -> BuildConfig:
    return BuildConfig(plugin_config=PluginConfig(**plugins))


AWQ_AND_SMOOTH = mixed(qkv={"quant_algo": SMOOTH_BOTH}, proj={"quant_algo": "W4A16_AWQ", "group_size": 64})

# Each row: what is allowed, what is refused, a GPU or None, words of the reason.
PAIRS: dict[str, tuple[list[Spec], list[Spec], Gpu | None, str]] = {
    "SmoothQuant or weight-only, when converting": (
        [ConvertSpec(source="m", smoothquant=0.5, per_channel=True, per_token=True, int8_kv_cache=True)],
        [ConvertSpec(source="m", smoothquant=0.5, use_weight_only=True, weight_only_precision="int4")],
        None,
        "exclude each other: one layer has one kind of weights",
    ),
    "weight-only with an INT8 cache, and without SmoothQuant's scales": (
        [ConvertSpec(source="m", use_weight_only=True, int8_kv_cache=True)],
        [ConvertSpec(source="m", use_weight_only=True, per_channel=True)],
        None,
        "per_channel chooses the scales of SmoothQuant, and smoothquant is not given",
    ),
    "SmoothQuant's kernels or weight-only's": (
        [PluginConfig(smooth_quant_gemm_plugin="float16", quantize_per_token_plugin="float16")],
        [PluginConfig(quantize_tensor_plugin="float16", weight_only_groupwise_quant_matmul_plugin="float16")],
        None,
        "exclude each other: one layer has one kind of weights",
    ),
    "SmoothQuant's kernels and the weights": (
        [quantized(QuantConfig(quant_algo=SMOOTH)), kernels(smooth_quant_gemm_plugin="float16")],
        [quantized(QuantConfig(quant_algo="W4A16_AWQ")), kernels(smooth_quant_gemm_plugin="float16")],
        None,
        "smooth_quant_gemm_plugin computes SmoothQuant, and the checkpoint's weights are quantized as W4A16_AWQ",
    ),
    "the kernel of scales a channel": (
        [quantized(QuantConfig(quant_algo="W4A16")), kernels(weight_only_quant_matmul_plugin="float16")],
        [
            quantized(QuantConfig(quant_algo="W4A16", group_size=64)),
            kernels(weight_only_quant_matmul_plugin="float16"),
        ],
        None,
        "computes weight-only quantization per channel, and the checkpoint's weights are quantized as W4A16 in groups",
    ),
    "the kernel of scales a group": (
        [quantized(QuantConfig(quant_algo="W4A16_GPTQ")), kernels(weight_only_groupwise_quant_matmul_plugin="float16")],
        [quantized(QuantConfig()), kernels(weight_only_groupwise_quant_matmul_plugin="float16")],
        None,
        "computes weights with group scales, and the checkpoint's weights are not quantized",
    ),
    "kernels of one layer of a mixed recipe": (
        [quantized(AWQ_AND_SMOOTH), kernels(weight_only_groupwise_quant_matmul_plugin="float16")],
        [quantized(AWQ_AND_SMOOTH), kernels(weight_only_quant_matmul_plugin="float16")],
        None,
        "per channel, and the checkpoint's weights are quantized as MIXED_PRECISION",
    ),
    "a quantized cache and the plugin that reads it": (
        [QuantConfig(quant_algo="W4A16_AWQ", kv_cache_quant_algo="INT8"), PluginConfig()],
        [QuantConfig(quant_algo="W4A16_AWQ", kv_cache_quant_algo="FP8"), PluginConfig(**OFF)],
        None,
        "K/V cache in FP8 is read by the attention plugin only",
    ),
    "FP8 layers": (
        [QuantConfig(quant_algo="FP8", kv_cache_quant_algo="FP8")],
        [QuantConfig(quant_algo="FP8_PER_CHANNEL_PER_TOKEN")],
        TURING,
        "FP8 needs compute capability 8.9 (Ada, Hopper or newer), and T4 has 7.5",
    ),
    "inputs in FP8": ([QuantConfig(quant_algo="W4A8_AWQ")], [QuantConfig(quant_algo="W4A8_AWQ")], TURING, "T4 has 7.5"),
    "FP8 in a layer of a mixed recipe": (
        [mixed(qkv={"quant_algo": "FP8"}, proj={"quant_algo": "W8A16"})],
        [mixed(qkv={"quant_algo": "FP8"}, proj={"quant_algo": "W8A16"})],
        TURING,
        f"T4 has 7.5. The recipe has it in {QKV}",
    ),
    "groups": (
        [quantized(QuantConfig(quant_algo="W4A16_AWQ", group_size=64), mapping=Mapping(tp_size=4))],
        [quantized(QuantConfig(quant_algo="W4A16_AWQ", group_size=128), mapping=Mapping(tp_size=4))],
        None,
        "must divide into groups of 128: attention.dense has 192",  # 768 / 4
    ),
    "groups of layers that are excluded": (
        [
            quantized(
                QuantConfig(quant_algo="W4A16", group_size=128, exclude_modules=("attention.dense", "lm_head")),
                mapping=Mapping(tp_size=4),
            )
        ],
        [
            quantized(
                QuantConfig(quant_algo="W4A16", group_size=128, exclude_modules=("layers.0.attention.dense",)),
                mapping=Mapping(tp_size=4),
            )
        ],
        None,
        "attention.dense has 192",
    ),
    "groups of a mixed recipe": (
        [quantized(mixed(proj={"quant_algo": "W4A16_AWQ", "group_size": 64}), intermediate_size=3136)],  # 49 · 64
        [quantized(mixed(proj={"quant_algo": "W4A16_AWQ", "group_size": 128}), intermediate_size=3136)],
        None,
        f"{PROJ} has 3136 and groups of 128",
    ),
    "packed rows of a mixed recipe": (
        [quantized(mixed(proj={"quant_algo": "W8A16"}), intermediate_size=1001)],
        [quantized(mixed(proj={"quant_algo": "W4A16"}), intermediate_size=1001)],
        None,
        f"their number is odd: {PROJ} has 1001",
    ),
    "groups in other algorithms": (
        [QuantConfig(quant_algo="W8A16", group_size=64)],
        [QuantConfig(quant_algo="FP8", group_size=64)],
        None,
        "group_size 64 belongs to weight-only quantization, AWQ and GPTQ, and quant_algo is FP8",
    ),
    "factors of the inputs": (
        [QuantConfig(quant_algo="W4A8_AWQ", pre_quant_scale=True)],
        [QuantConfig(quant_algo="W8A16", pre_quant_scale=True)],
        None,
        "pre_quant_scale belongs to AWQ, and quant_algo is W8A16",
    ),
    "zero points and order": (
        [QuantConfig(quant_algo="W8A16", group_size=32, has_zero_point=True, input_order=True)],
        [QuantConfig(quant_algo=SMOOTH, has_zero_point=True)],
        None,
        f"has_zero_point belongs to W4A16_GPTQ (or W8A16 in groups), and quant_algo is {SMOOTH}",
    ),
    "SmoothQuant's alpha": (
        [QuantizeSpec(source="m", qformat="int8_sq", smoothquant=0.8, per_channel=True, kv_cache_dtype="fp8")],
        [QuantizeSpec(source="m", qformat="fp8", smoothquant=0.5)],  # what none means, and said all the same
        None,
        "smoothquant belongs to qformat int8_sq, and qformat is fp8",
    ),
    "SmoothQuant's scales a channel": (
        [QuantizeSpec(source="m", qformat="int8_sq", per_channel=True, per_token=True, kv_cache_dtype="int8")],
        [QuantizeSpec(source="m", qformat="int8_wo", per_channel=True)],
        None,
        "per_channel belongs to qformat int8_sq, and qformat is int8_wo",
    ),
    "GPTQ's zero points": (
        [QuantizeSpec(source="m", qformat="int4_gptq", zero_point=True, act_order=True, group_size=64)],
        [QuantizeSpec(source="m", qformat="w4a8_awq", zero_point=True)],
        None,
        "zero_point belongs to qformat int4_gptq, and qformat is w4a8_awq",
    ),
    "scales of a file": (
        [QuantizeSpec(source="m", qformat="fp8", fp8_scales="s.npz", kv_cache_dtype="fp8")],
        [QuantizeSpec(source="m", qformat="fp8", fp8_scales="s.npz", kv_cache_dtype="int8")],
        None,
        "fp8_scales holds no scales of an INT8 K/V cache",
    ),
    "scales of a file, and a search": (
        [QuantizeSpec(source="m", qformat="fp8", fp8_scales="s.npz", quantizer="ours")],
        [QuantizeSpec(source="m", qformat="fp8", fp8_scales="s.npz", quantizer="modelopt")],
        None,
        "fp8_scales gives the scales, and quantizer modelopt finds scales of its own",
    ),
    "what ModelOpt does": (
        [QuantizeSpec(source="m", qformat="w4a8_awq", quantizer="modelopt")],
        [QuantizeSpec(source="m", qformat="int8_sq", quantizer="modelopt")],
        None,
        "quantizer modelopt does fp8, int4_awq and w4a8_awq, and qformat is int8_sq",
    ),
}


@pytest.mark.parametrize("row", PAIRS.values(), ids=PAIRS.keys())
def test_a_combination_is_allowed_and_its_neighbour_refused_with_the_reason(
    row: tuple[list[Spec], list[Spec], Gpu | None, str],
) -> None:
    allowed, refused, gpu, words = row
    assert find_conflicts(*allowed, gpu=ADA) == []
    (conflict,) = find_conflicts(*refused, gpu=gpu)
    assert words in conflict.reason
    assert conflict.remedy


@pytest.mark.parametrize("cache", [None, "INT8", "FP8"])
@pytest.mark.parametrize("algo", [None, *(algo for algo in WEIGHT_ALGOS if algo is not QuantAlgo.MIXED_PRECISION)])
def test_every_algorithm_goes_with_every_cache(algo: QuantAlgo | None, cache: str | None) -> None:
    quant = QuantConfig(quant_algo=algo, kv_cache_quant_algo=cache)
    assert find_conflicts(quantized(quant), BuildConfig(), gpu=ADA) == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"quant_algo": "INT8"}, "quant_algo"),  # an algorithm of the cache
        ({"kv_cache_quant_algo": "W8A16"}, "kv_cache_quant_algo"),
        ({"quant_algo": "W4A16", "group_size": 48}, "group_size"),
        ({"smoothquant_val": 1.01}, "smoothquant_val"),
        ({"smoothquant_val": -0.01}, "smoothquant_val"),
        ({"quantized_layers": {QKV: {"quant_algo": "W8A16"}}}, "both or neither"),
        ({"quant_algo": "W8A16", "quantized_layers": {QKV: {"quant_algo": "W8A16"}}}, "both or neither"),
        (
            {"quant_algo": "MIXED_PRECISION", "quantized_layers": {QKV: {"kv_cache_quant_algo": "INT8"}}},
            "the K/V cache belongs to the whole model",
        ),
        (
            {"quant_algo": "MIXED_PRECISION", "quantized_layers": {QKV: {"quant_algo": "MIXED_PRECISION"}}},
            "both or neither|one algorithm of its own",
        ),
    ],
)
def test_values_that_no_quantization_has_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        QuantConfig(**wrong)


@pytest.mark.parametrize("alpha", [0, 0.5, 1])
def test_alpha_reaches_from_zero_to_one(alpha: float) -> None:
    assert QuantConfig(quant_algo=SMOOTH, smoothquant_val=alpha).smoothquant_val == alpha
