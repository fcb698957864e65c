"""What a static-batch benchmark leaves behind: each token's timestamp in each run, and all that follows from them."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from ..results.base import Number, Result
from ..results.render import Table
from ..results.statistics import PERCENTILE_METHOD, Distribution, distribution
from ..runtime.timing import GenerationTiming
from . import metrics as formulas
from .memory import MemoryFigures
from .planner.checks import checks_of
from .planner.result import PlanCheck

GIB = 1 << 30  # what the field prints as "gb" in the [BENCHMARK] line
LABEL = "engine-only: static batches, nothing waits in line"
"""Stands with every figure of this benchmark; a running batch's are labelled serving, and the two never mix."""
MEMORY_OVER_TIME = "memory_over_time"  # name of the samples: `MemoryTimeline`'s columns by a configuration's label


@dataclass(frozen=True, kw_only=True)
class BenchPoint:
    """One configuration: a batch size with one input and output length, measured in several runs.

    Attributes
    ----------
    batch_size, input_length, output_length, num_beams
        What was asked; lengths in tokens. The end token is ignored, so every run makes exactly `output_length` steps.
    warm_up
        Runs made before the measured ones; their times are not kept.
    token_ns
        The raw samples: for each measured run, nanoseconds from t0 to each token, in order.
    memory
        Peaks while this configuration ran.
    """

    batch_size: int
    input_length: int
    output_length: int
    num_beams: int = 1
    warm_up: int = 0
    token_ns: list[list[int]] = field(default_factory=list)
    memory: MemoryFigures = field(default_factory=MemoryFigures)

    @property
    def label(self) -> str:
        """Short name, the prefix of this point's metrics: ``"b1_i60_o20"``."""
        beams = f"_beams{self.num_beams}" if self.num_beams > 1 else ""
        return f"b{self.batch_size}_i{self.input_length}_o{self.output_length}{beams}"

    @cached_property
    def timings(self) -> list[GenerationTiming]:
        """The runs with their clock readings, t0 set to 0."""
        rows = (self.output_length,) * self.batch_size
        return [GenerationTiming(0, tuple(run), rows) for run in self.token_ns]

    @property
    def num_runs(self) -> int:
        """Measured runs."""
        return len(self.token_ns)

    def series(self, tag: str) -> list[float]:
        """Return the raw values of a metric, for example ``series("itl_ms")``; one a run, for ITL one a gap."""
        functions = {item.tag: item.values for item in formulas.SERIES}
        return functions[tag](self.timings)

    @cached_property
    def distributions(self) -> dict[str, Distribution | None]:
        """Mean, spread and percentiles of each metric; None where no run has a value."""
        return {item.tag: distribution(item.values(self.timings)) for item in formulas.SERIES}

    @property
    def tokens_per_sec(self) -> float | None:
        """batch · output_len / mean latency."""
        return formulas.tokens_per_sec(self.timings, batch_size=self.batch_size, output_length=self.output_length)

    @property
    def generation_tokens_per_second(self) -> float | None:
        """batch · (output_len − 1) / mean generation time."""
        return formulas.generation_tokens_per_second(
            self.timings, batch_size=self.batch_size, output_length=self.output_length
        )

    @property
    def line(self) -> str:
        """The line that people know from TensorRT-LLM's benchmarks; its gb are 2³⁰ bytes."""
        latency = self.distributions["latency_ms"]
        rate = self.tokens_per_sec
        gpu_peak_bytes, _ = self.memory.gpu_peak
        return (
            f"[BENCHMARK] batch_size {self.batch_size} input_length {self.input_length} "
            f"output_length {self.output_length} "
            f"latency(ms) {'n/a' if latency is None else format(latency.mean, '.2f')} "
            f"tokensPerSec {'n/a' if rate is None else format(rate, '.2f')} "
            f"gpu_peak_mem(gb) {'n/a' if gpu_peak_bytes is None else format(gpu_peak_bytes / GIB, '.2f')}"
        )


@dataclass(frozen=True, kw_only=True)
class BenchResult(Result):
    """A static-batch benchmark of one runner over a grid of configurations.

    Attributes
    ----------
    points
        One a configuration, in the order measured, with the raw timestamps.
    clock
        What timed it; the same for every runner.
    dtype, quantization, compute_capability, weights_percent
        Facts of the engine and device, None where they do not apply or are not known.
    engine_load_s, build_s, weights_bytes, decode_read_bytes
        Facts of the engine, None where not known.
    read_bandwidth_bytes_per_s
        This machine's measured read bandwidth, in bytes a second.
    """

    kind: ClassVar[str] = "bench"
    schema_version: ClassVar[int] = 1

    points: list[BenchPoint]
    clock: str = "perf_counter_ns, device synchronised"
    dtype: str | None = None
    quantization: str | None = None
    compute_capability: str | None = None
    weights_percent: float | None = None
    engine_load_s: float | None = None
    build_s: float | None = None
    weights_bytes: int | None = None
    decode_read_bytes: int | None = None
    read_bandwidth_bytes_per_s: float | None = None

    @property
    def title(self) -> str:
        return super().title.replace("Bench:", "Benchmark:", 1)

    @property
    def lines(self) -> list[str]:
        """One ``[BENCHMARK]`` line a configuration."""
        return [point.line for point in self.points]

    def point(self, batch_size: int | None = None, input_length: int | None = None) -> BenchPoint:
        """Return the first configuration with that batch size and input length."""
        for point in self.points:
            if batch_size in (None, point.batch_size) and input_length in (None, point.input_length):
                return point
        raise KeyError(f"no configuration with batch_size={batch_size}, input_length={input_length}")

    def share_of_read_bandwidth(self, point: BenchPoint) -> float | None:
        """How near a decode step of `point` comes to the rate at which the machine reads memory, in per cent."""
        gaps = point.distributions["itl_ms"]
        return formulas.share_of_read_bandwidth(
            gaps.p50 if gaps else None,
            read_bytes=self.decode_read_bytes,
            bandwidth_bytes_per_s=self.read_bandwidth_bytes_per_s,
        )

    @property
    def metrics(self) -> dict[str, Number | None]:
        """Numbers of the engine, then of each configuration under its label: ``"b1_i60_o20.ttft_ms_p50"``."""
        flat: dict[str, Number | None] = {
            tag: getattr(self, tag)
            for tag in ("engine_load_s", "build_s", "weights_bytes", "weights_percent", "decode_read_bytes")
        }
        checks = self.checks
        for point in self.points:
            numbers: dict[str, Number | None] = {}
            for tag, summary in point.distributions.items():
                numbers.update(summary.as_metrics(tag) if summary else {f"{tag}_mean": None})
            numbers["tokens_per_sec"] = point.tokens_per_sec
            numbers["generation_tokens_per_second"] = point.generation_tokens_per_second
            numbers["share_of_read_bandwidth"] = self.share_of_read_bandwidth(point)
            numbers.update(point.memory.as_metrics())
            for check in (check for check in checks if check.label == point.label):
                numbers[f"predicted_{check.metric}"] = check.predicted
                numbers[f"{check.metric.removesuffix('_ms')}_prediction_error"] = check.error_percent
            flat.update({f"{point.label}.{tag}": value for tag, value in numbers.items()})
        return flat

    def tables(self) -> list[Table]:
        """Throughput, what was planned, percentiles, memory, and the engine's facts."""
        tables = [self.speed_table, self._percentile_table(), self._memory_table(), self._facts_table()]
        if self.checks:
            tables.insert(1, self._prediction_table())
        return tables

    @property
    def checks(self) -> list[PlanCheck]:
        """What a plan had predicted of this benchmark, beside what was measured; empty where nothing was planned."""
        return checks_of(self)

    def _prediction_table(self) -> Table:
        columns = ("configuration", "metric", "predicted", "measured", "error (%)")
        rows = [(item.label, item.metric, item.predicted, item.measured, item.error_percent) for item in self.checks]
        return Table(columns, rows, title="Planned beforehand", note="Error: 100 · (predicted − measured) / measured.")

    def __repr__(self) -> str:
        return "\n".join([*self.lines, "", super().__repr__()])

    def _repr_html_(self) -> str:
        style = "margin:8px 0 0;overflow-x:auto;background:transparent;color:inherit;"
        return f'{super()._repr_html_()}<pre style="{style}">{html.escape(chr(10).join(self.lines))}</pre>'

    @property
    def speed_table(self) -> Table:
        """Latency and throughput, a row a configuration."""
        columns = (
            "batch", "input", "output", "runs", "latency mean (ms)", "TTFT p50 (ms)", "TPOT mean (ms)",
            "tokens/s", "decode tokens/s", "of read bandwidth (%)",
        )  # fmt: skip
        rows = []
        for point in self.points:
            summaries = point.distributions
            rows.append(
                (
                    point.batch_size,
                    point.input_length,
                    point.output_length,
                    point.num_runs,
                    _get(summaries["latency_ms"], "mean"),
                    _get(summaries["ttft_ms"], "p50"),
                    _get(summaries["tpot_ms"], "mean"),
                    point.tokens_per_sec,
                    point.generation_tokens_per_second,
                    self.share_of_read_bandwidth(point),
                )
            )
        note = f"Engine-only: static batches, no queue. Clock: {self.clock}. Tokens are new tokens of all rows."
        return Table(columns, rows, title="Speed", note=note)

    def _percentile_table(self) -> Table:
        columns = ("batch", "input", "output", "metric", "n", "mean", "std", "p50", "p90", "p95", "p99", "max")
        rows = []
        for point in self.points:
            for item in formulas.SERIES:
                summary = point.distributions[item.tag]
                numbers = [_get(summary, name) for name in columns[5:]]
                shape = (point.batch_size, point.input_length, point.output_length)
                rows.append((*shape, item.metric.label, summary.n if summary else 0, *numbers))
        note = f"Percentiles by {PERCENTILE_METHOD} interpolation over n samples; std of the population."
        return Table(columns, rows, title="Distributions", note=note)

    def _memory_table(self) -> Table:
        rows = []
        for point in self.points:
            for metric, value in point.memory.named():
                if value is not None:
                    rows.append(
                        (point.batch_size, point.input_length, point.output_length, metric.title, value / 2**20)
                    )
        note = "Different things, not to be added or mixed; a figure that cannot be known here is left out."
        sources = {source for peak, source in (point.memory.gpu_peak for point in self.points) if peak is not None}
        if sources:
            note += f" gpu_peak_mem of the [BENCHMARK] line is that of the {' or '.join(sorted(sources))}."
        return Table(("batch", "input", "output", "memory", "peak (MiB)"), rows, title="Memory", note=note)

    def _facts_table(self) -> Table:
        rate = self.read_bandwidth_bytes_per_s
        facts: list[tuple[str, Any]] = [
            ("backend", self.backend),
            ("model", self.model),
            ("data type", self.dtype),
            ("quantization", self.quantization or "none"),
            ("compute capability", self.compute_capability),
            ("weights resident on the device (%)", self.weights_percent),
            ("weights (MiB)", _mebibytes(self.weights_bytes)),
            ("weights read by a decode step (MiB)", _mebibytes(self.decode_read_bytes)),
            ("measured read bandwidth (GB/s)", None if rate is None else rate / 1e9),
            ("engine load time (s)", self.engine_load_s),
            ("build time (s)", self.build_s),
        ]
        known = [(name, value) for name, value in facts if value is not None]
        return Table(("fact", "value"), known, title="Engine", note="What is not known here is left out.")


def _get(summary: Distribution | None, name: str) -> float | None:
    return None if summary is None else getattr(summary, name)


def _mebibytes(count: int | None) -> float | None:
    return None if count is None else count / 2**20
