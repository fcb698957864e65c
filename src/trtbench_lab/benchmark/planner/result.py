"""What a plan says: memory by part, predicted times with what they rest on, and the choices that meet a target."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from ...results.base import Number, Result
from ...results.render import Table, format_value
from .scaling import ScalingRow, scaling_table

GIB = float(1 << 30)


@dataclass(frozen=True, kw_only=True)
class MemoryPart:
    """One part of a rank's memory.

    Attributes
    ----------
    name
        ``"weights"``, ``"K/V cache"``, ``"activations"``, ``"graphs and workspaces"`` or ``"context"``.
    bytes
        On the rank that holds most.
    basis
        How it was found: ``"counted"`` from shapes, or ``"assumed"``; and what is in it.
    """

    name: str
    bytes: int
    basis: str


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Predicted numbers of one workload.

    Attributes
    ----------
    batch_size, input_length, output_length
        The workload.
    ttft_ms, itl_ms, latency_ms, tokens_per_sec
        Predicted; the definitions are those of the benchmark's metrics of the same names.
    itl_floor_ms, ttft_floor_ms
        What the machine's ceilings allow at most: bytes over the read rate, operations over the matrix rate.
    spread
        Share by which a prediction of this kind was off on the rows it was calibrated on, at most; where nothing was
        measured, 0.3 by assumption.
    bound_by
        What the decode step waits for most: ``"reading weights"``, ``"reading the cache"``, ``"arithmetic"``,
        ``"launches"`` or ``"collectives"``.
    parts_ms
        The decode step by part, in milliseconds.
    decode_bytes, decode_flops
        Of one decode step on one rank, half-way through the output.
    """

    batch_size: int
    input_length: int
    output_length: int
    ttft_ms: float
    itl_ms: float
    latency_ms: float
    tokens_per_sec: float
    itl_floor_ms: float
    ttft_floor_ms: float
    spread: float
    bound_by: str
    parts_ms: dict[str, float]
    decode_bytes: int
    decode_flops: float

    @property
    def label(self) -> str:
        """The same as a benchmark's configuration: ``"b1_i512_o128"``."""
        return f"b{self.batch_size}_i{self.input_length}_o{self.output_length}"


@dataclass(frozen=True, kw_only=True)
class PlanChoice:
    """One combination that was weighed for a target.

    Attributes
    ----------
    gpu, tp_size, pp_size, quantization
        The combination; `quantization` as ``%trt_quantize --qformat`` writes it, ``"none"`` for as it is.
    itl_ms, ttft_ms, tokens_per_sec, memory_bytes
        Predicted; memory of the fullest rank.
    fits, meets
        Whether it fits the GPU, and whether it also meets the target.
    why_not
        What it misses; empty where it meets all.
    """

    gpu: str
    tp_size: int
    pp_size: int
    quantization: str
    itl_ms: float
    ttft_ms: float
    tokens_per_sec: float
    memory_bytes: int
    fits: bool
    meets: bool
    why_not: str = ""

    @property
    def gpus(self) -> int:
        """Number of GPUs."""
        return self.tp_size * self.pp_size


@dataclass(frozen=True, kw_only=True)
class PlanCheck:
    """A prediction beside what was measured later.

    Attributes
    ----------
    bench_id, label, metric
        The benchmark, its configuration, and the metric.
    predicted, measured
        In the metric's unit.
    error_percent
        100 · (predicted − measured) / measured.
    """

    bench_id: str
    label: str
    metric: str
    predicted: float
    measured: float

    @property
    def error_percent(self) -> float:
        return 100 * (self.predicted - self.measured) / self.measured


@dataclass(frozen=True, kw_only=True)
class PlanResult(Result):
    """What a model will need and reach on a GPU, from its configuration alone: predicted, not measured.

    Attributes
    ----------
    architecture, dtype, quantization, kv_cache_dtype, tp_size, pp_size
        The model and its division.
    target_backend
        The backend whose execution is predicted.
    gpu, ceilings
        The GPU's name and what is taken as its ceilings, with their source.
    supported, reasons
        Whether this version can build and run it, and every reason why not.
    memory, capacity_bytes
        Parts of the fullest rank, and what the GPU has.
    largest_batch
        Most sequences of this length that fit; None where not even the weights do.
    predictions
        One a workload; the first is the one asked for.
    download_bytes, checkpoint_bytes, engine_bytes, build_s
        Disk and time; predicted too.
    choices, target
        What was weighed for a target, best first, and the target; empty without one.
    scaling
        The same on 1 to 64 GPUs; empty for one rank and on a CPU.
    checks
        Measurements of the same model, mapping, quantization, GPU and workload that the history held already.
    assumptions, notes
        What the prediction rests on, and what a person should read.
    link
        The key by which a later benchmark finds this plan.
    """

    kind: ClassVar[str] = "plan"
    schema_version: ClassVar[int] = 1

    architecture: str
    dtype: str
    quantization: str = "none"
    kv_cache_dtype: str
    tp_size: int = 1
    pp_size: int = 1
    target_backend: str
    gpu: str
    ceilings: dict[str, Any] = field(default_factory=dict)
    supported: bool = True
    reasons: list[str] = field(default_factory=list)
    memory: list[MemoryPart] = field(default_factory=list)
    capacity_bytes: int
    largest_batch: int | None = None
    predictions: list[Prediction] = field(default_factory=list)
    download_bytes: int
    checkpoint_bytes: int
    engine_bytes: int
    build_s: float | None = None
    target: dict[str, float] = field(default_factory=dict)
    choices: list[PlanChoice] = field(default_factory=list)
    scaling: list[ScalingRow] = field(default_factory=list)
    checks: list[PlanCheck] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    link: str = ""

    @property
    def memory_bytes(self) -> int:
        """Memory of the fullest rank, all parts together."""
        return sum(part.bytes for part in self.memory)

    @property
    def fits(self) -> bool:
        """Whether the fullest rank fits its GPU."""
        return self.memory_bytes <= self.capacity_bytes

    @property
    def prediction(self) -> Prediction:
        """The workload that was asked for."""
        return self.predictions[0]

    @property
    def cheapest(self) -> PlanChoice | None:
        """The first choice that meets the target; None without a target or where nothing meets it."""
        return next((choice for choice in self.choices if choice.meets), None)

    def part(self, name: str) -> int:
        """Return the bytes of one part of memory; 0 where there is none."""
        return sum(part.bytes for part in self.memory if part.name == name)

    @property
    def exit_code(self) -> int:
        """What a shell gets: 0 where it is supported, fits and (with a target) something meets it; else 1."""
        return 0 if self.supported and self.fits and (not self.target or self.cheapest is not None) else 1

    @property
    def title(self) -> str:
        words = [self.name, self.model, f"{self.gpu}", f"tp {self.tp_size} × pp {self.pp_size}"]
        return "Plan (predicted, nothing was run): " + " · ".join(word for word in words if word)

    @property
    def metrics(self) -> dict[str, Number | None]:
        flat: dict[str, Number | None] = {}
        for item in self.predictions:
            flat[f"{item.label}.predicted_ttft_ms"] = item.ttft_ms
            flat[f"{item.label}.predicted_itl_ms"] = item.itl_ms
            flat[f"{item.label}.predicted_latency_ms"] = item.latency_ms
            flat[f"{item.label}.predicted_tokens_per_sec"] = item.tokens_per_sec
        flat["predicted_memory_bytes"] = self.memory_bytes
        flat["capacity_bytes"] = self.capacity_bytes
        flat["predicted_weights_bytes"] = self.part("weights")
        flat["predicted_kv_cache_bytes"] = self.part("K/V cache")
        flat["largest_batch"] = self.largest_batch
        for name in ("download_bytes", "checkpoint_bytes", "engine_bytes", "build_s"):
            flat[f"predicted_{name}"] = getattr(self, name)
        return flat

    def tables(self) -> list[Table]:
        """The verdict, memory, speed, choices, checks against measurements, and what it rests on."""
        tables = [self._verdict_table(), self.memory_table, self._speed_table()]
        if self.scaling:
            tables.append(scaling_table(self.scaling))
        if self.target:
            tables.append(self.choice_table)
        if self.checks:
            tables.append(self._check_table())
        tables.append(Table(("what this rests on",), [(line,) for line in self.assumptions]))
        if self.notes:
            tables.append(Table(("notes",), [(note,) for note in self.notes]))
        return tables

    def _verdict_table(self) -> Table:
        fits = "yes" if self.fits else "no"
        rows: list[tuple[str, Any]] = [
            ("supported", "yes" if self.supported else "no: " + " ".join(self.reasons)),
            ("fits", f"{fits}: {self.memory_bytes / GIB:,.2f} of {self.capacity_bytes / GIB:,.1f} GiB a rank"),
            ("most sequences of this length", self.largest_batch),
            ("model", f"{self.architecture}, {self.dtype}, quantization {self.quantization}"),
            ("K/V cache", self.kv_cache_dtype),
            ("backend that would run it", self.target_backend),
            ("to download (GiB)", self.download_bytes / GIB),
            ("checkpoint on disk (GiB)", self.checkpoint_bytes / GIB),
            ("engine on disk (GiB)", self.engine_bytes / GIB),
            ("convert and build (s)", self.build_s),
        ]
        if self.target:
            asked = " ".join(f"{name}={limit:g}" for name, limit in self.target.items())
            best = self.cheapest
            answer = "nothing that was weighed meets it" if best is None else _in_words(best)
            rows.insert(2, (f"cheapest for {asked}", answer))
        return Table(("question", "answer"), rows, title="Verdict")

    @property
    def memory_table(self) -> Table:
        """Memory by part."""
        rows = [(part.name, part.bytes / GIB, part.basis) for part in self.memory]
        rows.append(("all", self.memory_bytes / GIB, f"of {self.capacity_bytes / GIB:,.1f} GiB"))
        return Table(("memory of the fullest rank", "GiB", "how it was found"), rows, title="Memory")

    def _speed_table(self) -> Table:
        columns = (
            "batch", "input", "output", "TTFT (ms)", "ITL (ms)", "tokens/s", "ITL at the limit (ms)", "off by up to",
            "a step waits for",
        )  # fmt: skip
        rows = [
            (
                item.batch_size, item.input_length, item.output_length, item.ttft_ms, item.itl_ms, item.tokens_per_sec,
                item.itl_floor_ms, f"{100 * item.spread:.0f} %", item.bound_by,
            )
            for item in self.predictions
        ]  # fmt: skip
        note = "Predicted for a static batch, engine only. The limit is bytes and operations over the ceilings."
        return Table(columns, rows, title="Speed", note=note)

    @property
    def choice_table(self) -> Table:
        """What was weighed for the target, best first."""
        columns = ("GPUs", "tp × pp", "quantization", "ITL (ms)", "TTFT (ms)", "tokens/s", "GiB a rank", "target")
        rows = [
            (
                f"{choice.gpus} × {choice.gpu}", f"{choice.tp_size} × {choice.pp_size}", choice.quantization,
                choice.itl_ms, choice.ttft_ms, choice.tokens_per_sec, choice.memory_bytes / GIB,
                "met" if choice.meets else choice.why_not,
            )
            for choice in self.choices
        ]  # fmt: skip
        note = (
            "Cheapest first among those that meet it: fewest and smallest GPUs, then the least change of the weights. "
            "Quantization costs quality; %trt_compare shows how much."
        )
        return Table(columns, rows, title="Choices", note=note)

    def _check_table(self) -> Table:
        columns = ("benchmark", "configuration", "metric", "predicted", "measured", "error (%)")
        rows = [(c.bench_id, c.label, c.metric, c.predicted, c.measured, c.error_percent) for c in self.checks]
        return Table(columns, rows, title="Predictions beside measurements of the same")


def _in_words(choice: PlanChoice) -> str:
    return (
        f"{choice.gpus} × {choice.gpu}, tp {choice.tp_size} × pp {choice.pp_size}, quantization {choice.quantization}: "
        f"ITL {format_value(choice.itl_ms)} ms, TTFT {format_value(choice.ttft_ms)} ms, "
        f"{choice.tokens_per_sec:,.0f} tokens/s"
    )
