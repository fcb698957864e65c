"""One plan: configuration in, verdict, memory, times and choices out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...checkpoint.writer import rank_bytes
from ...errors import SpecError
from ...specs import Mapping as RankMapping
from ...specs import ModelConfig, QuantConfig
from ...specs.requests import QuantizeSpec
from ...specs.requests.formats import KV_CACHE_ALGOS
from .checks import link_of, machine_name
from .collectives import BASIS as COLLECTIVES
from .efficiency import CPU_ROWS, GPU_ROWS, UNMEASURED, execution_of, linear_share
from .gpus import THIS, Gpu, gpu_named
from .memory import largest_batch, memory_parts
from .result import PlanResult, Prediction
from .scaling import scaled
from .sources import config_from_files, source_bytes
from .speed import CACHE_LIMIT_BYTES, ceilings_of, predict
from .support import division_problem, problems
from .targets import FORMATS, SIZES, target_from, weigh
from .work import RankWork, rank_work

CONVERT_BYTES_PER_S = 1.0e9  # 0.97 to 1.6 GB/s in benchmarks/RESULTS.md
ENGINE_EXTRA_BYTES = 3 << 20  # configuration, kernels, tables of a small engine


def plan(
    model: ModelConfig | Path | str,
    *,
    gpu: str | Gpu = THIS,
    other_gpus: Sequence[str | Gpu] = (),
    tp_size: int = 1,
    pp_size: int = 1,
    quantization: str | QuantConfig = "none",
    kv_cache_dtype: str | None = None,
    group_size: int | None = None,
    quantize_lm_head: bool = False,
    dtype: str = "auto",
    backend: str = "auto",
    batch_size: int | Sequence[int] = 1,
    input_len: int = 512,
    output_len: int = 128,
    max_batch_size: int | None = None,
    max_seq_len: int | None = None,
    target: str | Mapping[str, float] | None = None,
    label: str | None = None,
    name: str | None = None,
) -> PlanResult:
    """Return what a model will need and reach on a GPU: memory, times, disk; predicted, nothing is run or fetched.

    Parameters
    ----------
    model
        A configuration, or a folder or file with config.json: of a Hugging Face model, a checkpoint or an engine.
    gpu
        A name of the table (``"H200"``, ``"a100-40gb"``), or ``"this"``: the machine at hand, its ceilings measured in
        two seconds.
    other_gpus
        Further GPUs to weigh for a target.
    tp_size, pp_size
        Ranks that share layers, and stages.
    quantization
        As ``%trt_quantize --qformat`` takes it, ``"none"``, or a configuration; a model that is quantized already
        keeps its own.
    kv_cache_dtype
        ``"int8"``, ``"fp8"`` or None for the compute type.
    dtype
        Type of what is not quantized; ``"auto"`` is the model's own, float32 on a CPU.
    backend
        ``"auto"`` is torch on a GPU or for several ranks, else onnxruntime.
    batch_size, input_len, output_len
        The workload; several batch sizes are predicted each, and the first is the one that counts.
    max_batch_size, max_seq_len
        What the cache has room for; None for the workload's own.
    target
        ``"itl_ms=5 ttft_ms=200"``: the cheapest combination of quantization, ranks and GPU predicted to meet it.
    label
        The model's name in the result; None for the folder's.

    Raises
    ------
    IntakeError
        When the configuration is missing, malformed or of an unknown family.
    SpecError
        For an unknown GPU, quantization or target, or a workload that the model cannot hold.
    """
    config, raw = (model, {}) if isinstance(model, ModelConfig) else config_from_files(model, dtype)
    if isinstance(model, ModelConfig) and dtype != "auto":
        config = config.replace(dtype=dtype)
    machine = _machine(gpu)
    batches = (batch_size,) if isinstance(batch_size, int) else tuple(batch_size)
    if not batches or min(*batches, input_len, output_len) < 1:
        raise SpecError(
            "Batch size and lengths are numbers from 1 on.", where="plan", remedy="Give batch_size=1 or more."
        )
    shape = _Shape(config, raw, batches, input_len, output_len, max_batch_size, max_seq_len, dtype, backend)
    quant = _quantization(config, quantization, kv_cache_dtype, group_size, quantize_lm_head)
    name_of_model = label or (None if isinstance(model, ModelConfig) else _label(Path(model)))
    found = _planned(shape, machine, quant, tp_size, pp_size, label=name_of_model, name=name)
    if tp_size * pp_size > 1 and not machine.is_cpu:
        found = found.replace(scaling=scaled(lambda tp, pp: _possible(shape, machine, quant, tp, pp)))
    wanted = target_from(target)
    if not wanted:
        return found
    formats = FORMATS if not config.quantization.is_quantized else ("none",)

    def planned(on: Gpu, tp: int, pp: int, qformat: str) -> PlanResult | None:
        try:
            own = _quantization(config, qformat, kv_cache_dtype, group_size, quantize_lm_head)
        except SpecError:
            return None
        return _possible(shape, on, own, tp, pp)

    gpus = list(dict.fromkeys([machine, *(_machine(item) for item in other_gpus)]))
    choices = weigh(wanted, gpus, _combinations(machine, tp_size, pp_size, formats), planned)
    return found.replace(target=wanted, choices=choices)


class _Shape:
    """What all combinations of one plan share."""

    def __init__(
        self, config: ModelConfig, raw: dict[str, Any], batches: tuple[int, ...], input_len: int, output_len: int,
        max_batch_size: int | None, max_seq_len: int | None, dtype: str, backend: str,
    ):  # fmt: skip
        self.config, self.raw, self.batches = config, raw, batches
        self.input_len, self.output_len = input_len, output_len
        self.tokens = max_seq_len or input_len + output_len
        self.sequences = max_batch_size or max(batches)
        self.dtype, self.backend = dtype, backend
        if self.tokens < input_len + output_len:
            raise SpecError(
                f"max_seq_len {self.tokens} is less than {input_len} + {output_len} tokens.",
                where="max_seq_len",
                remedy="Raise it, or ask for fewer tokens.",
            )
        if self.sequences < max(batches):
            raise SpecError(
                f"max_batch_size {self.sequences} is less than the batch of {max(batches)}.",
                where="max_batch_size",
                remedy="Raise it, or plan smaller batches.",
            )


def _planned(
    shape: _Shape, gpu: Gpu, quant: QuantConfig, tp: int, pp: int, *, label: str | None = None, name: str | None = None
) -> PlanResult:
    """Return the plan of one combination, without a target."""
    on_cpu = gpu.is_cpu
    compute_dtype = shape.config.dtype if shape.dtype != "auto" or not on_cpu else "float32"
    mapping = RankMapping(tp_size=tp, pp_size=pp)
    backend = shape.backend if shape.backend != "auto" else "torch" if not on_cpu or tp * pp > 1 else "onnxruntime"
    config = shape.config.replace(mapping=mapping, quantization=quant, dtype=compute_dtype)
    undivided = division_problem(config, mapping)
    reasons = [undivided, "All figures here are those of one rank."] if undivided else []
    if undivided:  # the numbers of one rank, so that a person still sees what it is about
        mapping = RankMapping()
        config = config.replace(mapping=mapping)
        if division_problem(config, mapping):
            raise SpecError(undivided, where="plan", remedy="Choose another quantization, group size or division.")
    reasons += problems(config, gpu, backend, compute_dtype)
    longest = config.max_position_embeddings
    if shape.tokens > longest and not (config.uses_rope and config.rotary_scaling is not None):
        reasons.append(f"{shape.tokens:,} tokens are more than the model's {longest:,} positions.")
    # Ranks that share layers hold tensors of the same shapes, padding included: the first of each stage stands for all.
    firsts = range(0, mapping.world_size, mapping.tp_size)
    stages = tuple(rank_work(config, mapping.with_rank(rank), compute_dtype) for rank in firsts)
    parts = memory_parts(
        config, stages, gpu, backend, compute_dtype,
        sequences=shape.sequences, tokens=shape.tokens, input_len=shape.input_len,
    )  # fmt: skip
    predictions = [
        predict(config, stages, gpu, backend, compute_dtype, (batch, shape.input_len, shape.output_len))
        for batch in shape.batches
    ]
    checkpoint = mapping.tp_size * sum(rank_bytes(config, rank) for rank in firsts)
    ceilings = ceilings_of(gpu)
    return PlanResult(
        backend="planner",
        model=label or config.architecture,
        name=name,
        spec={},
        architecture=config.architecture,
        dtype=compute_dtype,
        quantization=quantization_words(quant),
        kv_cache_dtype=str(quant.kv_cache_quant_algo.value) if quant.kv_cache_quant_algo else compute_dtype,
        tp_size=mapping.tp_size,
        pp_size=mapping.pp_size,
        target_backend=backend,
        gpu=gpu.name,
        ceilings={
            "read_bytes_per_s": ceilings.read_bytes_per_s,
            "flops_per_s": ceilings.flops_per_s,
            "compute_dtype": compute_dtype,
            "source": ceilings.source,
        },
        supported=not reasons,
        reasons=reasons,
        memory=parts,
        capacity_bytes=gpu.memory_bytes,
        largest_batch=largest_batch(
            config, stages, gpu, backend, compute_dtype, tokens=shape.tokens, input_len=shape.input_len
        ),
        predictions=predictions,
        download_bytes=source_bytes(shape.config, shape.raw),
        checkpoint_bytes=checkpoint,
        engine_bytes=checkpoint + ENGINE_EXTRA_BYTES * mapping.world_size,
        build_s=_build_s(checkpoint, backend, on_cpu),
        assumptions=_assumptions(config, gpu, backend, predictions),
        notes=_notes(shape, gpu, stages),
        link=link_of(config, compute_dtype, gpu.name, backend),
    )


def _possible(shape: _Shape, gpu: Gpu, quant: QuantConfig, tp: int, pp: int) -> PlanResult | None:
    """Return the plan of one combination; None where the model cannot be divided or does not run so."""
    try:
        found = _planned(shape, gpu, quant, tp, pp)
    except SpecError:
        return None
    return found if found.supported else None


def _machine(gpu: str | Gpu) -> Gpu:
    if isinstance(gpu, Gpu):
        return gpu
    if gpu.strip().lower() != THIS:
        return gpu_named(gpu)
    from .this_machine import this_machine

    return this_machine()


def _quantization(
    config: ModelConfig, asked: str | QuantConfig, kv_cache: str | None, group_size: int | None, lm_head: bool
) -> QuantConfig:
    """Return the quantization that a person means, by the rules of `%trt_quantize`; a quantized model keeps its own."""
    if isinstance(asked, QuantConfig):
        return asked
    if kv_cache is not None and kv_cache not in KV_CACHE_ALGOS:
        raise SpecError(
            f"There is no K/V cache of {kv_cache!r}.",
            where="kv_cache_dtype",
            remedy=f"Use {' or '.join(KV_CACHE_ALGOS)}.",
        )
    if asked in ("none", "full_prec"):
        own = config.quantization
        return own if kv_cache is None else own.replace(kv_cache_quant_algo=KV_CACHE_ALGOS[kv_cache])
    if config.quantization.quant_algo is not None:
        raise SpecError(
            f"The model is quantized already ({config.quantization.quant_algo.value}).",
            where="quantization",
            remedy="Leave --quant out, or plan the model it came from.",
        )
    if asked in ("int4_wo", "int4", "w4a16") and group_size is None:
        group_size = 128 if config.hidden_size % 128 == 0 and config.mlp_width % 128 == 0 else 64
    spec = QuantizeSpec(
        source="plan", qformat=asked, kv_cache_dtype=kv_cache, group_size=group_size, quantize_lm_head=lm_head
    )
    return spec.quant_config


def quantization_words(quant: QuantConfig) -> str:
    """Return a quantization as results call it: ``"W4A16, groups of 128"`` or ``"none"``."""
    words = []
    if quant.quant_algo is not None:
        words.append(quant.quant_algo.value)
        if quant.quant_algo.is_weight_only or quant.quant_algo.is_groupwise:
            words.append(f"groups of {quant.group_size}" if quant.group_size else "per channel")
    if quant.kv_cache_quant_algo is not None:
        words.append(f"K/V cache {quant.kv_cache_quant_algo.value}")
    return ", ".join(words) or "none"


def _combinations(gpu: Gpu, tp: int, pp: int, formats: Iterable[str]) -> list[tuple[int, int, str]]:
    sizes = [(tp, pp)] if gpu.is_cpu else [(size, 1) for size in SIZES]
    if (tp, pp) not in sizes:
        sizes.append((tp, pp))
    return [(*size, qformat) for size in sizes for qformat in formats]


def _build_s(checkpoint_bytes: int, backend: str, on_cpu: bool) -> float:
    execution = execution_of(backend, on_gpu=not on_cpu)
    return checkpoint_bytes / CONVERT_BYTES_PER_S + execution.build_s + checkpoint_bytes / execution.build_bytes_per_s


def _label(path: Path) -> str:
    return (path.parent if path.name == "config.json" else path).absolute().name


def _assumptions(config: ModelConfig, gpu: Gpu, backend: str, predictions: list[Prediction]) -> list[str]:
    """Return what the numbers rest on, in sentences."""
    share = linear_share(config.quantization.quant_algo, backend, on_gpu=not gpu.is_cpu)
    rows = CPU_ROWS if gpu.is_cpu else GPU_ROWS
    measured = rows if share.is_measured else f"assumed for this quantization, {UNMEASURED:.0%} off or more"
    lines = [
        f"ceilings: {ceilings_of(gpu).source}",
        f"linear layers reach {share.read_one:.0%} of the read rate with one row, {share.read_many:.0%} with several, "
        f"and {share.product:.0%} of the matrix rate in prompts: {measured}",
        f"static batch, greedy, cache read half-way through the output; off by up to {predictions[0].spread:.0%}",
        "build time: conversion at 1 GB/s, and the backend's own; it depends on the machine's processor and disk most",
    ]
    if config.mapping.world_size > 1:
        lines.append(COLLECTIVES if not gpu.is_cpu else "sums between ranks of one CPU machine: measured at 4 KB")
    if backend == "tensorrt":
        lines.append("the tensorrt backend is taken to reach what the torch backend was measured to reach")
    return lines


def _notes(shape: _Shape, gpu: Gpu, stages: tuple[RankWork, ...]) -> list[str]:
    notes = []
    if shape.raw.get("quantization_config"):
        notes.append("The folder says that it is quantized; the plan is of the model before that.")
    if gpu.is_cpu and shape.dtype == "auto" and shape.config.dtype != "float32":
        notes.append(f"Computed in float32: the model is {shape.config.dtype}, and a CPU multiplies that slowly.")
    if gpu.is_cpu and stages[0].read_bytes < CACHE_LIMIT_BYTES:
        notes.append("So small a model may stay in the processor's cache: steps may then be quicker than predicted.")
    if not gpu.is_cpu and gpu.name == machine_name() and not gpu.measured:
        notes.append("This GPU is in this machine: gpu='this' measures its own ceilings.")
    return notes
