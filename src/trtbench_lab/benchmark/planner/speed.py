"""Predicted times of one workload: a decode step and a prompt as sums of products, attention and talk between ranks."""

from __future__ import annotations

from dataclasses import dataclass

from ...specs import ModelConfig
from .collectives import all_reduce_s, send_s
from .efficiency import (
    IN_CACHE,
    PRODUCT_OF_PUBLISHED,
    READ_OF_PUBLISHED,
    UNMEASURED,
    LinearShare,
    execution_of,
    linear_share,
)
from .gpus import Gpu
from .result import Prediction
from .work import ITEM_BYTES, RankWork, attention_flops

CACHE_LIMIT_BYTES = 64 << 20  # a CPU may keep less than that in its last-level cache, and reads it quicker then
PROMPT_TOKENS = 8192  # a step of a GPU's prompt phase, as the torch backend cuts it


@dataclass(frozen=True)
class Ceilings:
    """What a GPU reaches at most: bytes read a second, and operations a second by type of the inputs."""

    read_bytes_per_s: float
    flops_per_s: dict[str, float]
    source: str


def ceilings_of(gpu: Gpu) -> Ceilings:
    """Return measured ceilings where there are any, else the published ones at the H200's share of its own."""
    half = "float32" if gpu.is_cpu else "float16"
    read = gpu.read_bytes_per_s or gpu.bandwidth_bytes_per_s * READ_OF_PUBLISHED
    share = PRODUCT_OF_PUBLISHED
    if gpu.product_flops_per_s is not None:
        share = gpu.product_flops_per_s / gpu.flops_per_s[half]
    source = gpu.measured or (
        f"{gpu.source}, times {READ_OF_PUBLISHED:g} for memory and {PRODUCT_OF_PUBLISHED:g} for arithmetic, "
        "what an H200 was measured to reach of its own"
    )
    rates = {kind: rate * share for kind, rate in gpu.flops_per_s.items()}
    rates.setdefault("bfloat16", rates["float32"])  # where it is not computed, float32 is what is left
    return Ceilings(read, rates, source)


def predict(
    config: ModelConfig,
    stages: tuple[RankWork, ...],
    gpu: Gpu,
    backend: str,
    compute_dtype: str,
    workload: tuple[int, int, int],
) -> Prediction:
    """Return the predicted numbers of one workload: (batch size, input length, output length).

    Parameters
    ----------
    stages
        The fullest rank of each pipeline stage: a token passes them one after the other.
    """
    batch, input_len, output_len = workload
    ceilings = ceilings_of(gpu)
    tokens = input_len + output_len / 2  # half-way through the output
    parts: dict[str, float] = {}
    floor_s = 0.0
    for work in stages:
        for name, seconds in _decode_parts(work, gpu, backend, compute_dtype, ceilings, batch, tokens).items():
            parts[name] = parts.get(name, 0.0) + seconds
        cache = batch * tokens * work.cache_bytes_a_token
        by_bytes = (work.read_bytes + cache) / ceilings.read_bytes_per_s
        floor_s += max(by_bytes, _flops_s(work, ceilings, compute_dtype, gpu, batch, batch))
    parts["collectives"] = _collectives_s(config, stages, gpu, batch, compute_dtype)
    itl_s = sum(parts.values())
    ttft_s, ttft_floor_s = _prompt_s(config, stages, gpu, backend, compute_dtype, ceilings, batch, input_len)
    latency_s = ttft_s + (output_len - 1) * itl_s
    algos = {group.algo for work in stages for group in work.groups}
    shares = [linear_share(algo, backend, on_gpu=not gpu.is_cpu) for algo in algos]
    return Prediction(
        batch_size=batch,
        input_length=input_len,
        output_length=output_len,
        ttft_ms=1e3 * ttft_s,
        itl_ms=1e3 * itl_s,
        latency_ms=1e3 * latency_s,
        tokens_per_sec=batch * output_len / latency_s,
        itl_floor_ms=1e3 * floor_s,
        ttft_floor_ms=1e3 * ttft_floor_s,
        spread=_spread(shares, stages, config, gpu, backend),
        bound_by=max(parts, key=lambda name: parts[name]),
        parts_ms={name: 1e3 * seconds for name, seconds in parts.items() if seconds},
        decode_bytes=round(max(work.read_bytes + batch * tokens * work.cache_bytes_a_token for work in stages)),
        decode_flops=max(work.flops(batch) for work in stages),
    )


def _decode_parts(
    work: RankWork, gpu: Gpu, backend: str, compute_dtype: str, ceilings: Ceilings, batch: int, tokens: float
) -> dict[str, float]:
    """Return the seconds of a decode step in one stage, by what they are spent on."""
    on_gpu = not gpu.is_cpu
    execution = execution_of(backend, on_gpu=on_gpu)
    reading = arithmetic = launches = 0.0
    for group in work.groups:
        share = linear_share(group.algo, backend, on_gpu=on_gpu)
        read_s = group.bytes / (ceilings.read_bytes_per_s * (share.read_one if batch == 1 else share.read_many))
        kind = share.narrow if share.narrow in ceilings.flops_per_s else compute_dtype
        compute_s = 2.0 * group.parameters * batch / (ceilings.flops_per_s[kind] * share.product)
        launch_s = execution.launch_one_s if batch == 1 else execution.launch_many_s
        if compute_s > read_s:
            arithmetic += compute_s
        else:
            reading += read_s
        launches += group.count * launch_s
    cached = {1: execution.cache_fp8 if gpu.capability >= (8, 9) else execution.cache_int8}
    share_of_cache = cached.get(work.cache_item_bytes, execution.cache_plain)
    cache_s = batch * tokens * work.cache_bytes_a_token / (ceilings.read_bytes_per_s * share_of_cache)
    return {
        "reading weights": reading + work.other_read_bytes / ceilings.read_bytes_per_s,
        "arithmetic": arithmetic,
        "reading the cache": cache_s,
        "launches": launches + work.layers * execution.attention_s + execution.token_s,
    }


def _flops_s(work: RankWork, ceilings: Ceilings, compute_dtype: str, gpu: Gpu, rows: int, last_rows: int) -> float:
    """Return the least seconds of the linear layers' arithmetic."""
    total = 0.0
    for group in work.groups:
        share = linear_share(group.algo, "torch", on_gpu=not gpu.is_cpu)
        kind = share.narrow if share.narrow in ceilings.flops_per_s else compute_dtype
        total += 2.0 * group.parameters * (last_rows if group.is_head else rows) / ceilings.flops_per_s[kind]
    return total


def _prompt_s(
    config: ModelConfig,
    stages: tuple[RankWork, ...],
    gpu: Gpu,
    backend: str,
    compute_dtype: str,
    ceilings: Ceilings,
    batch: int,
    input_len: int,
) -> tuple[float, float]:
    """Return the seconds of the prompt pass, and the least that the ceilings allow."""
    on_gpu = not gpu.is_cpu
    execution = execution_of(backend, on_gpu=on_gpu)
    rows = batch * input_len
    pieces = -(-rows // PROMPT_TOKENS) if on_gpu else 1
    total_s = floor_s = 0.0
    for work in stages:
        stage_s = 0.0
        for group in work.groups:
            share = linear_share(group.algo, backend, on_gpu=on_gpu)
            kind = share.narrow if share.narrow in ceilings.flops_per_s else compute_dtype
            # The head computes the last token of each row; ONNX Runtime's graph computes it for every token.
            head_rows = batch if on_gpu or backend == "torch" else rows
            compute_s = 2.0 * group.parameters * (head_rows if group.is_head else rows)
            compute_s /= ceilings.flops_per_s[kind] * share.product
            read_s = pieces * group.bytes / (ceilings.read_bytes_per_s * share.read_many)
            stage_s += max(compute_s, read_s) + pieces * group.count * execution.prompt_launch_s
        attention = attention_flops(work, batch, input_len) / ceilings.flops_per_s[compute_dtype]
        total_s += stage_s + attention / execution.prompt_attention
        by_flops = _flops_s(work, ceilings, compute_dtype, gpu, rows, batch) + attention
        floor_s += max(by_flops, work.read_bytes / ceilings.read_bytes_per_s)
    nbytes = rows * config.hidden_size * ITEM_BYTES[compute_dtype]
    tp = config.mapping.tp_size
    total_s += 2 * config.num_hidden_layers * all_reduce_s(nbytes, tp, gpu)
    total_s += (len(stages) - 1) * (send_s(nbytes, gpu) if len(stages) > 1 else 0.0) + execution.token_s
    return total_s, floor_s


def _collectives_s(
    config: ModelConfig, stages: tuple[RankWork, ...], gpu: Gpu, batch: int, compute_dtype: str
) -> float:
    """Return the seconds that a decode step spends in sums and transfers."""
    nbytes = batch * config.hidden_size * ITEM_BYTES[compute_dtype]
    sums = 2 * config.num_hidden_layers * all_reduce_s(nbytes, config.mapping.tp_size, gpu)
    return sums + (len(stages) - 1) * (send_s(nbytes, gpu) if len(stages) > 1 else 0.0)


def _spread(
    shares: list[LinearShare], stages: tuple[RankWork, ...], config: ModelConfig, gpu: Gpu, backend: str
) -> float:
    """Return how far off a prediction of this kind may be: measured kinds' own, wider where something is assumed."""
    spread = max(share.spread for share in shares)
    assumed = config.mapping.world_size > 1 or backend == "tensorrt" or (not gpu.is_cpu and not gpu.measured)
    spread = max(spread, UNMEASURED) if assumed else spread
    return max(spread, IN_CACHE) if gpu.is_cpu and stages[0].read_bytes < CACHE_LIMIT_BYTES else spread
