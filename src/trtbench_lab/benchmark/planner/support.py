"""Whether this version can build and run a model so, and every reason why not."""

from __future__ import annotations

from ...checkpoint.layout import check_division
from ...errors import TrtbenchError
from ...network.decoder import check_supported
from ...specs import Mapping, ModelConfig
from .gpus import Gpu

BF16_FROM, FP8_FROM = (8, 0), (8, 9)  # compute capabilities
TORCH_FROM, TENSORRT_FROM = (7, 5), (7, 5)


def division_problem(config: ModelConfig, mapping: Mapping) -> str | None:
    """Return why the model cannot be divided so; None where it can."""
    try:
        check_division(config, mapping)
    except TrtbenchError as error:
        return str(error.what)
    return None


def problems(config: ModelConfig, gpu: Gpu, backend: str, compute_dtype: str) -> list[str]:
    """Return every reason why `config` cannot run there; its division is judged apart."""
    found = []
    try:
        check_supported(config, paged=not gpu.is_cpu or config.quantization.kv_cache_quant_algo is not None)
    except TrtbenchError as error:
        found.append(f"{error.what} {error.remedy or ''}".strip())
    if backend == "onnxruntime" and config.mapping.world_size > 1:
        found.append("The onnxruntime backend runs one rank; several ranks are the torch backend's.")
    if not gpu.is_cpu:
        found += _gpu_problems(config, gpu, compute_dtype)
    return found


def _gpu_problems(config: ModelConfig, gpu: Gpu, compute_dtype: str) -> list[str]:
    found = []
    if gpu.capability < TORCH_FROM:
        found.append(f"{gpu.name} has compute capability {gpu.compute_capability}; the kernels need 7.5.")
    if compute_dtype == "bfloat16" and gpu.capability < BF16_FROM:
        found.append(f"{gpu.name} has no bfloat16 arithmetic (compute capability 8.0 and later has); use float16.")
    algo, cache = config.quantization.quant_algo, config.quantization.kv_cache_quant_algo
    wants_fp8 = (algo is not None and (algo.is_fp8 or "W4A8" in algo.value)) or (cache is not None and cache == "FP8")
    if wants_fp8 and gpu.capability < FP8_FROM:
        found.append(f"{gpu.name} has no FP8 arithmetic (compute capability 8.9 and later has); use INT8.")
    return found
