"""The words by which requests name a quantization, and the algorithm that each stands for."""

from __future__ import annotations

from ..quant import QuantAlgo, QuantConfig

WEIGHT_ONLY_ALGOS = {"int8": QuantAlgo.W8A16, "int4": QuantAlgo.W4A16}
SMOOTHQUANT = "int8_sq"
QFORMAT_ALGOS = {
    "int8_wo": QuantAlgo.W8A16,
    "int4_wo": QuantAlgo.W4A16,
    "int4_awq": QuantAlgo.W4A16_AWQ,
    "int4_gptq": QuantAlgo.W4A16_GPTQ,
    "w4a8_awq": QuantAlgo.W4A8_AWQ,
    "fp8": QuantAlgo.FP8,
    SMOOTHQUANT: QuantAlgo.W8A8_SQ_PER_TENSOR_PLUGIN,
    "full_prec": None,
}
KV_CACHE_ALGOS = {"int8": QuantAlgo.INT8, "fp8": QuantAlgo.FP8}
SMOOTHQUANT_ALGOS = {
    (False, False): QuantAlgo.W8A8_SQ_PER_TENSOR_PLUGIN,
    (False, True): QuantAlgo.W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN,
    (True, False): QuantAlgo.W8A8_SQ_PER_CHANNEL_PLUGIN,
    (True, True): QuantAlgo.W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN,
}
"""(per channel, per token) → algorithm."""


def quant_config_from(
    algo: QuantAlgo | None, group_size: int | None, exclude_modules: tuple[str, ...] | None, quantize_lm_head: bool
) -> QuantConfig:
    """Return the configuration of an algorithm and of the flags that all verbs have for it; None quantizes nothing."""
    if algo is None:
        return QuantConfig()
    excluded = exclude_modules
    if quantize_lm_head:
        excluded = tuple(pattern for pattern in exclude_modules or () if pattern != "lm_head")
    return QuantConfig(quant_algo=algo, group_size=group_size, exclude_modules=excluded)
