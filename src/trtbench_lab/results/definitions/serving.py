"""Requests that arrive by themselves: one is sent at t0, its tokens are on the host at t1 … tN, its prompt has M."""

from __future__ import annotations

from ..metric import HIGHER, LOWER, NEITHER, Metric

SERVING = (
    Metric(
        tag="request_latency_ms",
        title="Request latency (serving)",
        unit="ms",
        direction=LOWER,
        formula="tN − t0",
        definition="From the moment a request is sent until its last token is on the host, waiting in line included.",
        trap="It has its own name because a static batch's latency has no waiting in it: the two are never compared.",
    ),
    Metric(
        tag="request_ttft_ms",
        title="Time to first token (serving)",
        unit="ms",
        direction=LOWER,
        formula="t1 − t0",
        definition=(
            "From the moment a request is sent until its first token is on the host: waiting in line, its prompt, and "
            "the steps of others that its prompt shares."
        ),
        trap="With all requests at once it is mostly waiting; state the request rate with it.",
    ),
    Metric(
        tag="request_tpot_ms",
        title="Time per output token (serving)",
        unit="ms",
        direction=LOWER,
        formula="(tN − t1) / (N − 1), one value a request with N ≥ 2",
        definition="A request's mean gap between tokens after the first.",
        trap="AIPerf and TensorRT-LLM call this one inter-token latency.",
    ),
    Metric(
        tag="request_itl_ms",
        title="Inter-token latency (serving)",
        unit="ms",
        direction=LOWER,
        formula="t(i+1) − t(i), i = 1 … N−1, pooled over requests",
        definition=(
            "The gaps between consecutive tokens of a request, all of them: the tail shows the steps in which others' "
            "prompts were taken in, and times when the request was put off."
        ),
        trap="Pooled gaps weigh long outputs more; the mean of requests' means is TPOT.",
    ),
    Metric(
        tag="output_tokens_per_second",
        title="Output token throughput (serving)",
        unit="tokens/s",
        direction=HIGHER,
        formula="Σ N / W, W = last token of all − first request sent",
        definition=(
            "New tokens of all completed requests over the whole duration, its beginning and end, in which the batch "
            "is not full, included."
        ),
        trap="At a low request rate it is the rate of arrivals, not the engine's limit.",
    ),
    Metric(
        tag="total_tokens_per_second",
        title="Total token throughput (serving)",
        unit="tokens/s",
        direction=HIGHER,
        formula="(Σ M + Σ N) / W",
        definition="Prompt and new tokens of all completed requests over the whole duration.",
    ),
    Metric(
        tag="requests_per_second",
        title="Request throughput",
        unit="1/s",
        direction=HIGHER,
        formula="completed requests / W",
        definition="Requests that gave every token asked for, over the whole duration.",
    ),
    Metric(
        tag="goodput_per_second",
        title="Goodput",
        unit="1/s",
        direction=HIGHER,
        formula="completed requests that keep every stated limit / W",
        definition=(
            "A limit is kept when the request's own value is at most the limit; for itl that value is its largest gap. "
            "n/a where no service level is stated."
        ),
        trap="A request of one token has no TPOT and no gap: both count as kept.",
    ),
    Metric(
        tag="serving_duration_s",
        title="Duration (serving)",
        unit="s",
        direction=NEITHER,
        formula="W = last token of all − first request sent",
        definition="How long the workload took from beginning to end.",
    ),
    Metric(
        tag="peak_concurrency",
        title="Peak concurrency",
        unit="requests",
        direction=NEITHER,
        formula="max over time of requests between t0 and tN",
        definition="Most requests on their way at one moment, those that wait in line included.",
    ),
    Metric(
        tag="preemptions",
        title="Preemptions",
        unit="",
        direction=LOWER,
        formula="times that a running request was put off",
        definition=(
            "How often the cache was full and the youngest request gave its blocks back, to be computed again later."
        ),
    ),
)
