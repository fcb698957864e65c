"""What execution reaches of the ceilings: every assumption of the planner, as data, with the rows it was calibrated on.

A decode step is taken as matrix products, attention, and the launches of both::

    products  = bytes of weights / (read rate · share) or operations / (matrix rate · share), whichever is longer,
                + products · overhead
    attention = layers · overhead + bytes of the cache / (read rate · share)

The GPU's shares come from `benchmarks/RESULTS.md`, 2026-11-21, one NVIDIA H200: matrix products, attention over the
paged cache, and the fused engine. The CPU's come from the same log and from the demo models.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...specs.quant import QuantAlgo

GPU_ROWS = "calibrated on the rows of one H200 in benchmarks/RESULTS.md (Llama-3-8B and GPT-2 medium shapes)"
CPU_ROWS = "calibrated on the rows of a 2-core AVX2 machine in benchmarks/RESULTS.md (GPT-2 124M shape)"
UNMEASURED = 0.30
"""Spread of a prediction whose kind nobody here measured, by assumption."""

IN_CACHE = 0.6
"""Spread for a model whose weights may stay in a processor's cache: then memory does not bound it."""

# Of the published figures, on the H200: 4.34 of 4.8 TB/s read, 778 of 989.5 TFLOP/s in products.
READ_OF_PUBLISHED = 0.90
PRODUCT_OF_PUBLISHED = 0.79


@dataclass(frozen=True)
class LinearShare:
    """What linear layers of one quantization reach.

    Attributes
    ----------
    read_one, read_many
        Share of the read rate with one row, and with several.
    product
        Share of the rate of 16-bit products (of 8-bit ones where `narrow`) with many rows.
    narrow
        The type whose products the hardware computes: ``"fp8"``, ``"int8"`` or empty for the compute type.
    spread
        Largest deviation on the rows it was calibrated on; `UNMEASURED` where there is none.
    """

    read_one: float
    read_many: float
    product: float
    narrow: str = ""
    spread: float = UNMEASURED

    @property
    def is_measured(self) -> bool:
        return self.spread < UNMEASURED


@dataclass(frozen=True)
class Execution:
    """What one backend on one kind of machine reaches.

    Attributes
    ----------
    launch_one_s, launch_many_s
        Overhead of a matrix product with one row, and with several.
    attention_s
        Overhead of attention in one layer of a decode step.
    cache_plain, cache_fp8, cache_int8
        Share of the read rate in reading the cache, by its type.
    prompt_launch_s
        Overhead of a product in the prompt phase, which no graph holds.
    prompt_attention
        Share of the matrix rate in the prompt's attention.
    token_s
        Time of a step outside the executor: choice of the token, the loop.
    context_bytes, workspace_bytes
        Memory beside weights, cache and activations.
    build_s, build_bytes_per_s
        A build takes `build_s` and as long as its bytes take at this rate.
    """

    launch_one_s: float
    launch_many_s: float
    attention_s: float
    cache_plain: float
    cache_fp8: float
    cache_int8: float
    prompt_launch_s: float
    prompt_attention: float
    token_s: float
    context_bytes: int
    workspace_bytes: int
    build_s: float
    build_bytes_per_s: float


MIB = 1 << 20
GPU = Execution(
    launch_one_s=1.2e-6, launch_many_s=3.2e-6, attention_s=6.0e-6, cache_plain=1.0, cache_fp8=0.67, cache_int8=0.54,
    prompt_launch_s=15e-6, prompt_attention=0.45, token_s=0.0,
    context_bytes=550 * MIB, workspace_bytes=300 * MIB, build_s=25.0, build_bytes_per_s=0.8e9,
)  # fmt: skip
ONNXRUNTIME_CPU = Execution(
    launch_one_s=8e-6, launch_many_s=12e-6, attention_s=40e-6, cache_plain=0.5, cache_fp8=0.3, cache_int8=0.3,
    prompt_launch_s=30e-6, prompt_attention=0.3, token_s=0.18e-3,
    context_bytes=350 * MIB, workspace_bytes=64 * MIB, build_s=4.0, build_bytes_per_s=0.12e9,
)  # fmt: skip
TORCH_CPU = Execution(
    launch_one_s=25e-6, launch_many_s=30e-6, attention_s=200e-6, cache_plain=0.4, cache_fp8=0.3, cache_int8=0.3,
    prompt_launch_s=40e-6, prompt_attention=0.3, token_s=0.25e-3,
    context_bytes=350 * MIB, workspace_bytes=64 * MIB, build_s=3.0, build_bytes_per_s=0.5e9,
)  # fmt: skip

_PLAIN_GPU = LinearShare(read_one=0.97, read_many=0.90, product=0.83, spread=0.08)
_GPU_SHARES = {
    QuantAlgo.W8A16: LinearShare(0.82, 0.57, 0.60, spread=0.15),
    QuantAlgo.W4A16: LinearShare(0.62, 0.26, 0.55, spread=0.20),
    QuantAlgo.W4A16_AWQ: LinearShare(0.62, 0.26, 0.55),
    QuantAlgo.W4A16_GPTQ: LinearShare(0.62, 0.26, 0.55),
    QuantAlgo.W4A8_AWQ: LinearShare(0.45, 0.26, 0.45, narrow="fp8"),
    QuantAlgo.FP8: LinearShare(0.78, 0.60, 0.60, narrow="fp8"),
    QuantAlgo.FP8_PER_CHANNEL_PER_TOKEN: LinearShare(0.70, 0.58, 0.58, narrow="fp8"),
}
_GPU_INT8 = LinearShare(0.70, 0.60, 0.60, narrow="int8")
_PLAIN_ORT = LinearShare(read_one=0.90, read_many=0.80, product=0.80, spread=0.20)
_ORT_SHARES = {
    QuantAlgo.W8A16: LinearShare(0.75, 0.60, 0.80, spread=0.25),
    QuantAlgo.W4A16: LinearShare(0.60, 0.45, 0.80, spread=0.25),
}
_ORT_OTHER = LinearShare(0.55, 0.40, 0.60)
_PLAIN_TORCH = LinearShare(read_one=0.53, read_many=0.53, product=0.85, spread=0.25)
_TORCH_OTHER = LinearShare(0.30, 0.30, 0.60)


def execution_of(backend: str, *, on_gpu: bool) -> Execution:
    """Return the overheads of a backend on a GPU or a CPU."""
    if on_gpu:
        return GPU
    return TORCH_CPU if backend == "torch" else ONNXRUNTIME_CPU


def linear_share(algo: QuantAlgo | None, backend: str, *, on_gpu: bool) -> LinearShare:
    """Return what linear layers of a quantization reach; None stands for none."""
    if on_gpu:
        if algo is None:
            return _PLAIN_GPU
        return _GPU_INT8 if algo.is_smoothquant else _GPU_SHARES.get(algo, _GPU_SHARES[QuantAlgo.W4A16_GPTQ])
    if backend == "torch":
        return _PLAIN_TORCH if algo is None else _TORCH_OTHER
    return _PLAIN_ORT if algo is None else _ORT_SHARES.get(algo, _ORT_OTHER)
