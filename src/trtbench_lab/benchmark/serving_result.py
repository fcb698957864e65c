"""What a serving benchmark leaves behind: each request's timestamps, each step's counts, and all that follows."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from ..results.base import Number, Result
from ..results.catalogue import METRICS
from ..results.render import Table
from ..results.statistics import PERCENTILE_METHOD, Distribution, distribution

LABEL = "serving: requests that arrive by themselves, queueing included"
"""Stands with every figure and table of this benchmark; a static batch's are labelled engine-only."""


@dataclass(frozen=True, kw_only=True)
class ServedRequest:
    """One request, its clock readings in nanoseconds from the moment at which the first was sent.

    Attributes
    ----------
    input_length, output_length
        Tokens of the prompt, and new tokens asked for.
    sent_ns, token_ns
        t0, and when each token was on the host.
    error
        Why it failed, or None.
    preemptions, reused_tokens
        How often it was put off for want of cache, and tokens whose keys and values were found in the cache.
    """

    input_length: int
    output_length: int
    sent_ns: int
    token_ns: list[int] = field(default_factory=list)
    error: str | None = None
    preemptions: int = 0
    reused_tokens: int = 0

    @property
    def completed(self) -> bool:
        """Whether it gave every token asked for."""
        return self.error is None and len(self.token_ns) == self.output_length

    @property
    def latency_ms(self) -> float:
        """tN − t0."""
        return (self.token_ns[-1] - self.sent_ns) / 1e6

    @property
    def ttft_ms(self) -> float:
        """t1 − t0."""
        return (self.token_ns[0] - self.sent_ns) / 1e6

    @property
    def tpot_ms(self) -> float | None:
        """(tN − t1) / (N − 1); None with a single token."""
        count = len(self.token_ns)
        return (self.token_ns[-1] - self.token_ns[0]) / 1e6 / (count - 1) if count > 1 else None

    @property
    def itl_ms(self) -> list[float]:
        """Gaps between consecutive tokens."""
        return [(b - a) / 1e6 for a, b in zip(self.token_ns, self.token_ns[1:], strict=False)]

    def meets(self, slo_ms: dict[str, float]) -> bool:
        """Whether it completed and keeps every limit; a single token has no TPOT and no gap, which then count as 0."""
        if not self.completed:
            return False
        values = {
            "ttft": self.ttft_ms,
            "latency": self.latency_ms,
            "tpot": self.tpot_ms or 0.0,
            "itl": max(self.itl_ms, default=0.0),
        }
        return all(values[name] <= limit for name, limit in slo_ms.items())


@dataclass(frozen=True, kw_only=True)
class StepColumns:
    """The steps of the batch, a list a column, on the requests' clock."""

    submitted_ns: list[int] = field(default_factory=list)
    known_ns: list[int] = field(default_factory=list)
    planning_ns: list[int] = field(default_factory=list)
    decode_rows: list[int] = field(default_factory=list)
    prompt_tokens: list[int] = field(default_factory=list)
    running: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    blocks_in_use: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ServingResult(Result):
    """A serving benchmark of one engine.

    Attributes
    ----------
    requests
        In order of arrival, with the raw timestamps.
    request_rate, concurrency
        Requests a second (None: all at once), and most on their way at a time (None: no bound).
    slo_ms
        The service level that goodput is counted by; empty: none was stated.
    steps
        Timeline of the batch.
    max_running, max_step_tokens, cache_blocks, tokens_per_block
        What the batch was given.
    preemptions, reused_blocks
        Times that a request was put off, and cached blocks that were used again.
    policy
        ``"in-flight"``, or how else requests were put together.
    """

    kind: ClassVar[str] = "serving"
    schema_version: ClassVar[int] = 1

    requests: list[ServedRequest]
    request_rate: float | None = None
    concurrency: int | None = None
    slo_ms: dict[str, float] = field(default_factory=dict)
    steps: StepColumns = field(default_factory=StepColumns)
    max_running: int | None = None
    max_step_tokens: int | None = None
    cache_blocks: int | None = None
    tokens_per_block: int | None = None
    preemptions: int = 0
    reused_blocks: int = 0
    policy: str = "in-flight"
    clock: str = "perf_counter_ns, tokens on the host"
    memory: dict[str, int] = field(default_factory=dict)
    dtype: str | None = None
    quantization: str | None = None
    compute_capability: str | None = None
    engine_load_s: float | None = None
    build_s: float | None = None
    weights_bytes: int | None = None

    @property
    def title(self) -> str:
        words = [self.name, self.model, f"backend {self.backend}", self.policy]
        return "Serving benchmark: " + " · ".join(word for word in words if word)

    @cached_property
    def completed(self) -> list[ServedRequest]:
        """Requests that gave every token asked for; only these are counted."""
        return [request for request in self.requests if request.completed]

    @property
    def duration_s(self) -> float | None:
        """W: last token of all − first request sent; None when nothing completed."""
        if not self.completed:
            return None
        sent = min(request.sent_ns for request in self.requests)
        return (max(request.token_ns[-1] for request in self.completed) - sent) / 1e9

    def series(self, tag: str) -> list[float]:
        """Raw values of a latency, for example ``series("request_ttft_ms")``."""
        done = self.completed
        if tag == "request_latency_ms":
            return [request.latency_ms for request in done]
        if tag == "request_ttft_ms":
            return [request.ttft_ms for request in done]
        if tag == "request_tpot_ms":
            return [value for request in done if (value := request.tpot_ms) is not None]
        if tag == "request_itl_ms":
            return [gap for request in done for gap in request.itl_ms]
        raise KeyError(tag)

    @cached_property
    def distributions(self) -> dict[str, Distribution | None]:
        """Mean, spread and percentiles of each latency; None where no request has a value."""
        return {tag: distribution(self.series(tag)) for tag in LATENCIES}

    @property
    def output_tokens_per_second(self) -> float | None:
        """Σ N / W."""
        return self._rate(sum(len(request.token_ns) for request in self.completed))

    @property
    def total_tokens_per_second(self) -> float | None:
        """(Σ M + Σ N) / W."""
        return self._rate(sum(request.input_length + len(request.token_ns) for request in self.completed))

    @property
    def requests_per_second(self) -> float | None:
        """Completed requests / W."""
        return self._rate(len(self.completed))

    @property
    def goodput_per_second(self) -> float | None:
        """Requests within the service level / W; None where none was stated."""
        return self._rate(sum(request.meets(self.slo_ms) for request in self.requests)) if self.slo_ms else None

    @property
    def peak_concurrency(self) -> int:
        """Most requests between sent and last token at one moment."""
        events = [(request.sent_ns, 1) for request in self.completed]
        events += [(request.token_ns[-1], -1) for request in self.completed]
        peak = now = 0
        for _, change in sorted(events):  # an end at the moment of a start comes first
            now += change
            peak = max(peak, now)
        return peak

    def _rate(self, amount: float) -> float | None:
        return amount / self.duration_s if self.duration_s else None

    @property
    def line(self) -> str:
        """One line in the manner of the static benchmark's, by names of its own: the two are never comparable."""

        def get(tag: str, name: str) -> str:
            summary = self.distributions[tag]
            return "n/a" if summary is None else format(getattr(summary, name), ".2f")

        rate = "inf" if self.request_rate is None else format(self.request_rate, "g")
        throughput, goodput = self.output_tokens_per_second, self.goodput_per_second
        return (
            f"[SERVING] policy {self.policy} requests {len(self.requests)} completed {len(self.completed)} "
            f"request_rate {rate} "
            f"output_tokensPerSec {'n/a' if throughput is None else format(throughput, '.2f')} "
            f"ttft_p50(ms) {get('request_ttft_ms', 'p50')} ttft_p99(ms) {get('request_ttft_ms', 'p99')} "
            f"tpot_p50(ms) {get('request_tpot_ms', 'p50')} itl_p99(ms) {get('request_itl_ms', 'p99')} "
            f"goodput(1/s) {'n/a' if goodput is None else format(goodput, '.3f')}"
        )

    @property
    def metrics(self) -> dict[str, Number | None]:
        flat: dict[str, Number | None] = {
            "num_requests": len(self.requests),
            "completed_requests": len(self.completed),
            "serving_duration_s": self.duration_s,
            "output_tokens_per_second": self.output_tokens_per_second,
            "total_tokens_per_second": self.total_tokens_per_second,
            "requests_per_second": self.requests_per_second,
            "goodput_per_second": self.goodput_per_second,
        }
        for tag, summary in self.distributions.items():
            flat.update(summary.as_metrics(tag) if summary else {f"{tag}_mean": None})
        flat["peak_concurrency"] = self.peak_concurrency
        flat["preemptions"] = self.preemptions
        flat["reused_blocks"] = self.reused_blocks
        return {**flat, "engine_load_s": self.engine_load_s, "build_s": self.build_s, **self.memory}

    def tables(self) -> list[Table]:
        """Throughput, latency percentiles, and what the batch was given."""
        return [self._throughput_table(), self._latency_table(), self._facts_table()]

    def __repr__(self) -> str:
        return "\n".join([self.line, "", super().__repr__()])

    def _repr_html_(self) -> str:
        style = "margin:8px 0 0;overflow-x:auto;background:transparent;color:inherit;"
        return f'{super()._repr_html_()}<pre style="{style}">{html.escape(self.line)}</pre>'

    def _throughput_table(self) -> Table:
        tags = ("output_tokens_per_second", "total_tokens_per_second", "requests_per_second", "goodput_per_second")
        rows = [(METRICS[tag].label, getattr(self, tag)) for tag in tags]
        levels = ", ".join(f"{name} ≤ {limit:g} ms" for name, limit in self.slo_ms.items()) or "none stated"
        return Table(
            ("throughput", "value"),
            rows,
            title=f"Throughput ({LABEL})",
            note=f"{len(self.completed)} of {len(self.requests)} requests completed. Service level: {levels}.",
        )

    def _latency_table(self) -> Table:
        columns = ("latency", "n", "mean", "std", "p50", "p90", "p95", "p99", "max")
        rows = []
        for tag, summary in self.distributions.items():
            numbers = [None if summary is None else getattr(summary, name) for name in columns[2:]]
            rows.append((METRICS[tag].label, summary.n if summary else 0, *numbers))
        note = f"Percentiles by {PERCENTILE_METHOD} interpolation over n samples; std of the population. {self.clock}."
        return Table(columns, rows, title=f"Latency ({LABEL})", note=note)

    def _facts_table(self) -> Table:
        failed = [request.error for request in self.requests if request.error]
        facts = [
            ("policy", self.policy),
            ("arrivals", "all at once" if self.request_rate is None else f"Poisson, {self.request_rate:g} a second"),
            ("most on their way", self.concurrency),
            ("most running", self.max_running),
            ("most tokens a step", self.max_step_tokens),
            ("cache (blocks × tokens)", f"{self.cache_blocks} × {self.tokens_per_block}"),
            ("steps", len(self.steps.known_ns) or None),
            ("put off for want of cache", self.preemptions),
            ("cached blocks used again", self.reused_blocks),
            ("data type", self.dtype),
            ("quantization", self.quantization),
            ("compute capability", self.compute_capability),
            ("failed requests", f"{len(failed)}, the first: {failed[0]}" if failed else None),
        ]
        return Table(("fact", "value"), [(name, value) for name, value in facts if value is not None], title="Batch")


LATENCIES = ("request_latency_ms", "request_ttft_ms", "request_tpot_ms", "request_itl_ms")
