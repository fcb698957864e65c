"""Time of static batches: generate() is entered at t0; tokens 1 … N of every row are on the host at t1 … tN."""

from __future__ import annotations

from ..metric import HIGHER, LOWER, NEITHER, Metric

STATIC_BATCH = (
    Metric(
        tag="latency_ms",
        title="Latency",
        unit="ms",
        direction=LOWER,
        formula="tN − t0",
        definition=(
            "Time of one whole batch from the call until its last token is on the host, with the device synchronised "
            "at both ends."
        ),
        trap="It grows with the output length; compare only equal input and output lengths and batch sizes.",
    ),
    Metric(
        tag="ttft_ms",
        title="Time to first token",
        unit="ms",
        direction=LOWER,
        formula="t1 − t0",
        definition=(
            "From the call until the first new token of every row is on the host: the prompt pass plus one choice of a "
            "token."
        ),
        trap="In a static batch nothing queues, so a server's TTFT under load is larger.",
    ),
    Metric(
        tag="itl_ms",
        title="Inter-token latency",
        unit="ms",
        direction=LOWER,
        formula="t(i+1) − t(i), i = 1 … N−1, pooled over runs",
        definition=(
            "The gaps between consecutive tokens, N−1 of them a run, kept one by one so that the tail can be seen."
        ),
        trap="Some tools call the mean of a request (TPOT here) by this name.",
    ),
    Metric(
        tag="tpot_ms",
        title="Time per output token",
        unit="ms",
        direction=LOWER,
        formula="(tN − t1) / (N − 1), one value a run",
        definition="Mean gap between tokens after the first; it needs at least two tokens and is n/a otherwise.",
        trap="Dividing the whole latency by N would mix the prompt pass in.",
    ),
    Metric(
        tag="generation_time_ms",
        title="Generation time",
        unit="ms",
        direction=LOWER,
        formula="tN − t1",
        definition=(
            "From the first to the last token: the decode steps alone. With fewer than two tokens there is none: n/a."
        ),
    ),
    Metric(
        tag="tokens_per_sec",
        title="Output tokens per second",
        unit="tokens/s",
        direction=HIGHER,
        formula="batch · output_len / mean latency",
        definition="Output tokens of all rows over the mean latency of a run, the prompt pass included.",
        trap=(
            "It rises with the output length as the prompt pass is spread over more tokens. Prompt tokens are not "
            "counted."
        ),
    ),
    Metric(
        tag="generation_tokens_per_second",
        title="Generation tokens per second",
        unit="tokens/s",
        direction=HIGHER,
        formula="batch · (output_len − 1) / mean generation time",
        definition=(
            "Tokens after the first over the time from first to last token: the decode rate, without the prompt pass. "
            "n/a when there is only one token."
        ),
    ),
    Metric(
        tag="engine_load_s",
        title="Engine load time",
        unit="s",
        direction=LOWER,
        formula="ready to take a request − load called",
        definition="Reading, verifying and preparing the engine, once a process.",
        trap="A second load of the same files is faster because the operating system still holds them in memory.",
    ),
    Metric(
        tag="build_s",
        title="Build time",
        unit="s",
        direction=LOWER,
        formula="engine folder complete − build started",
        definition=(
            "Duration of the build that made this engine, as recorded in its folder, even if the folder came from the "
            "cache."
        ),
    ),
)

WHOLE_RUN = (
    Metric(
        tag="speedup",
        title="Speed-up",
        unit="×",
        direction=HIGHER,
        formula="the reference's time an output token / the engine's time an output token",
        definition=(
            "How many times as fast as the reference, both timed by the same clock on the same prompts. Time an output "
            "token is the whole latency over the tokens made, because the sides may make different numbers of tokens."
        ),
    ),
    Metric(
        tag="total_latency_s",
        title="Total latency",
        unit="s",
        direction=LOWER,
        formula="sum of latencies",
        definition="Time of all batches of the run together.",
    ),
    Metric(
        tag="output_tokens",
        title="Output tokens",
        unit="tokens",
        direction=NEITHER,
        formula="sum of new tokens",
        definition="New tokens of all rows, padding excluded.",
    ),
)
"""Of a run over many batches, and beside its reference."""
