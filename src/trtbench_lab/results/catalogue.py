"""Every metric's tag, unit, direction, formula and definition, as data: shown next to numbers, used to compare them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

LOWER, HIGHER, NEITHER = "lower", "higher", "neither"
_STATISTIC = re.compile(r"_(mean|std|min|max|n|low|high|p\d{1,2}(?:_\d)?)$")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric's meaning.

    Attributes
    ----------
    tag
        Name as it stands in ``result.metrics``, unit included; statistics follow as ``_mean``, ``_p50`` …
    title
        Name for headings and axes, without the unit.
    unit
        ``"ms"``, ``"tokens/s"``, ``"bytes"`` … or ``""`` for a pure number.
    direction
        Which way is better: ``"lower"``, ``"higher"`` or ``"neither"``.
    formula
        In plain characters.
    definition
        What is measured, from where to where.
    trap
        What people confuse it with, or None.
    """

    tag: str
    title: str
    unit: str
    direction: str
    formula: str
    definition: str
    trap: str | None = None

    @property
    def label(self) -> str:
        """Title with unit, for an axis."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


METRICS: dict[str, Metric] = {}


def _add(
    tag: str, title: str, unit: str, direction: str, formula: str, definition: str, trap: str | None = None
) -> None:
    METRICS[tag] = Metric(
        tag=tag, title=title, unit=unit, direction=direction, formula=formula, definition=definition, trap=trap
    )


# ---- time: t0 = generate() is entered; t1 … tN = the tokens of step 1 … N (one a row) are on the host ----------------
_add(
    "latency_ms",
    "Latency",
    "ms",
    LOWER,
    "tN − t0",
    "Time of one whole batch from the call until its last token is on the host, with the device synchronised at both "
    "ends.",
    "It grows with the output length; compare only equal input and output lengths and batch sizes.",
)
_add(
    "ttft_ms",
    "Time to first token",
    "ms",
    LOWER,
    "t1 − t0",
    "From the call until the first new token of every row is on the host: the prompt pass plus one choice of a token.",
    "In a static batch nothing queues, so a server's TTFT under load is larger.",
)
_add(
    "itl_ms",
    "Inter-token latency",
    "ms",
    LOWER,
    "t(i+1) − t(i), i = 1 … N−1, pooled over runs",
    "The gaps between consecutive tokens, N−1 of them a run, kept one by one so that the tail can be seen.",
    "Some tools call the mean of a request (TPOT here) by this name.",
)
_add(
    "tpot_ms",
    "Time per output token",
    "ms",
    LOWER,
    "(tN − t1) / (N − 1), one value a run",
    "Mean gap between tokens after the first; it needs at least two tokens and is n/a otherwise.",
    "Dividing the whole latency by N would mix the prompt pass in.",
)
_add(
    "generation_time_ms",
    "Generation time",
    "ms",
    LOWER,
    "tN − t1",
    "From the first to the last token: the decode steps alone. With fewer than two tokens there is none: n/a.",
)
_add(
    "tokens_per_sec",
    "Output tokens per second",
    "tokens/s",
    HIGHER,
    "batch · output_len / mean latency",
    "Output tokens of all rows over the mean latency of a run, the prompt pass included.",
    "It rises with the output length as the prompt pass is spread over more tokens. Prompt tokens are not counted.",
)
_add(
    "generation_tokens_per_second",
    "Generation tokens per second",
    "tokens/s",
    HIGHER,
    "batch · (output_len − 1) / mean generation time",
    "Tokens after the first over the time from first to last token: the decode rate, without the prompt pass. "
    "n/a when there is only one token.",
)
_add(
    "engine_load_s",
    "Engine load time",
    "s",
    LOWER,
    "ready to take a request − load called",
    "Reading, verifying and preparing the engine, once a process.",
    "A second load of the same files is faster because the operating system still holds them in memory.",
)
_add(
    "build_s",
    "Build time",
    "s",
    LOWER,
    "engine folder complete − build started",
    "Duration of the build that made this engine, as recorded in its folder, even if the folder came from the cache.",
)

# ---- serving: t0 = a request is sent; t1 … tN = its tokens are on the host; M its prompt's tokens --------------------
_add(
    "request_latency_ms",
    "Request latency (serving)",
    "ms",
    LOWER,
    "tN − t0",
    "From the moment a request is sent until its last token is on the host, waiting in line included.",
    "It has its own name because a static batch's latency has no waiting in it: the two are never compared.",
)
_add(
    "request_ttft_ms",
    "Time to first token (serving)",
    "ms",
    LOWER,
    "t1 − t0",
    "From the moment a request is sent until its first token is on the host: waiting in line, its prompt, and the "
    "steps of others that its prompt shares.",
    "With all requests at once it is mostly waiting; state the request rate with it.",
)
_add(
    "request_tpot_ms",
    "Time per output token (serving)",
    "ms",
    LOWER,
    "(tN − t1) / (N − 1), one value a request with N ≥ 2",
    "A request's mean gap between tokens after the first.",
    "AIPerf and TensorRT-LLM call this one inter-token latency.",
)
_add(
    "request_itl_ms",
    "Inter-token latency (serving)",
    "ms",
    LOWER,
    "t(i+1) − t(i), i = 1 … N−1, pooled over requests",
    "The gaps between consecutive tokens of a request, all of them: the tail shows the steps in which others' prompts "
    "were taken in, and times when the request was put off.",
    "Pooled gaps weigh long outputs more; the mean of requests' means is TPOT.",
)
_add(
    "output_tokens_per_second",
    "Output token throughput (serving)",
    "tokens/s",
    HIGHER,
    "Σ N / W, W = last token of all − first request sent",
    "New tokens of all completed requests over the whole duration, its beginning and end, in which the batch is not "
    "full, included.",
    "At a low request rate it is the rate of arrivals, not the engine's limit.",
)
_add(
    "total_tokens_per_second",
    "Total token throughput (serving)",
    "tokens/s",
    HIGHER,
    "(Σ M + Σ N) / W",
    "Prompt and new tokens of all completed requests over the whole duration.",
)
_add(
    "requests_per_second",
    "Request throughput",
    "1/s",
    HIGHER,
    "completed requests / W",
    "Requests that gave every token asked for, over the whole duration.",
)
_add(
    "goodput_per_second",
    "Goodput",
    "1/s",
    HIGHER,
    "completed requests that keep every stated limit / W",
    "A limit is kept when the request's own value is at most the limit; for itl that value is its largest gap. n/a "
    "where no service level is stated.",
    "A request of one token has no TPOT and no gap: both count as kept.",
)
_add(
    "serving_duration_s",
    "Duration (serving)",
    "s",
    NEITHER,
    "W = last token of all − first request sent",
    "How long the workload took from beginning to end.",
)
_add(
    "peak_concurrency",
    "Peak concurrency",
    "requests",
    NEITHER,
    "max over time of requests between t0 and tN",
    "Most requests on their way at one moment, those that wait in line included.",
)
_add(
    "preemptions",
    "Preemptions",
    "",
    LOWER,
    "times that a running request was put off",
    "How often the cache was full and the youngest request gave its blocks back, to be computed again later.",
)

# ---- memory: five different numbers, never mixed ---------------------------------------------------------------------
_add(
    "process_rss_peak_bytes",
    "Peak process memory (resident)",
    "bytes",
    LOWER,
    "max over the measurement of the process's resident set",
    "Physical host memory of this process while it ran; of memory-mapped weight files the parts that were touched.",
    "It counts the Python interpreter, the libraries and whatever else the process holds, such as a second model.",
)
_add(
    "process_gpu_peak_bytes",
    "Peak GPU memory of the process",
    "bytes",
    LOWER,
    "max over the measurement of NVML's used memory of this process",
    "Device memory that the driver accounts to this process: weights, cache, workspaces and the CUDA context.",
    "Inside a container the driver may not tell processes apart; then it is n/a.",
)
_add(
    "device_gpu_peak_bytes",
    "Peak used memory of the GPU",
    "bytes",
    LOWER,
    "max over the measurement of NVML's used memory of the device",
    "Device memory in use by everybody on that GPU.",
    "Other processes on the same GPU are in it.",
)
_add(
    "allocator_reserved_peak_bytes",
    "Peak memory reserved by torch's allocator",
    "bytes",
    LOWER,
    "torch.cuda.max_memory_reserved()",
    "What torch's caching allocator took from the device.",
    "Blind to what TensorRT, NCCL or the CUDA context allocate themselves.",
)
_add(
    "allocator_allocated_peak_bytes",
    "Peak memory allocated by torch's allocator",
    "bytes",
    LOWER,
    "torch.cuda.max_memory_allocated()",
    "What live torch tensors occupied of the reserved memory.",
    "Always at most the reserved figure, and as blind as it to other libraries.",
)
_add(
    "process_rss_peak_delta_bytes",
    "Peak growth of process memory",
    "bytes",
    LOWER,
    "max over the work of the resident set − resident set before",
    "What one piece of work added to this process's memory at its peak.",
    "Memory that an allocator kept from earlier work is used again without showing.",
)
_add(
    "kv_cache_bytes",
    "Key/value cache",
    "bytes",
    LOWER,
    "2 · layers · rows · K/V heads · capacity · head size · bytes an element",
    "Size of the cache that the engine holds for the batch at hand.",
)
_add(
    "build_peak_bytes",
    "Peak memory of the build",
    "bytes",
    LOWER,
    "max over the build of its process's resident set",
    "Host memory of the process that built the engine.",
)
_add(
    "engine_bytes",
    "Engine folder",
    "bytes",
    LOWER,
    "sum of the sizes of its files",
    "Size of the engine on the disk, weights included.",
)
_add(
    "weights_bytes",
    "Weights",
    "bytes",
    LOWER,
    "sum over stored tensors of elements · bytes an element",
    "Size of the engine's weights as it stores them, quantization scales included.",
)
_add(
    "weights_percent",
    "Weights resident on the device",
    "%",
    NEITHER,
    "100 · resident weight bytes / all weight bytes",
    "Share of the weights kept on the device when weight streaming is on; 100 without it.",
)
_add(
    "decode_read_bytes",
    "Weights read by a decode step",
    "bytes",
    LOWER,
    "bytes of the weights that take part in every step",
    "All weights but the embedding tables, whose single rows are looked up; a table that is also the head counts.",
)
_add(
    "share_of_read_bandwidth",
    "Share of the measured read bandwidth",
    "%",
    HIGHER,
    "100 · decode_read_bytes / median inter-token latency / measured read bandwidth",
    "How near a decode step comes to the time in which the machine can only just read the weights: its physical limit "
    "at batch 1.",
    "The key/value cache is not counted, so long sequences and large batches look worse than they are. Weights that "
    "fit into the processor's cache can exceed 100 %.",
)

# ---- quality ---------------------------------------------------------------------------------------------------------
for _key, _what in (
    ("rouge1", "single words"),
    ("rouge2", "pairs of words"),
    ("rougeL", "the longest common subsequence"),
    ("rougeLsum", "the longest common subsequence, line by line"),
):
    _add(
        _key,
        _key.upper().replace("ROUGE", "ROUGE-").replace("LSUM", "Lsum"),
        "",
        HIGHER,
        "100 · median of the bootstrap's means over articles of F1 = 2PR/(P+R)",
        f"Overlap of {_what} between the summary and the reference, F-measure of the rouge-score package times 100, no "
        "stemmer.",
        "Values with and without stemming, or of other prompts and lengths, are not comparable. ROUGE hardly moves "
        "under damage by quantization: look at logit differences and entity accuracy too.",
    )
_add(
    "entity_accuracy",
    "Entity accuracy",
    "%",
    HIGHER,
    "100 · entities copied rightly / entities expected",
    "Share of the names and figures of the reference that the summary has.",
)
_add(
    "perplexity",
    "Perplexity",
    "",
    LOWER,
    "exp(mean negative log-likelihood a token)",
    "How surprised the model is by a held-out text, in nats a token, exponentiated.",
    "Only comparable between models with the same tokenizer.",
)
_add(
    "top1_agreement",
    "Top-1 agreement",
    "%",
    HIGHER,
    "100 · positions with equal argmax / positions",
    "Share of positions at which both sides would choose the same token, the history being the same.",
)
_add(
    "kl_divergence",
    "KL divergence of the next token",
    "nats",
    LOWER,
    "mean over positions of Σ p · ln(p / q), p the baseline's distribution, q the model's",
    "How much of what the baseline knows about the next token is lost, in nats a token; 0 for equal distributions.",
    "It sees every token that could have come, so it grows before perplexity does.",
)
_add(
    "size_ratio",
    "Size against the baseline",
    "×",
    LOWER,
    "weights of the model / weights of the baseline, in bytes",
    "Weights as each side stores them.",
)
_add(
    "largest_relative_error",
    "Largest relative error of a layer",
    "",
    LOWER,
    "max over layers of ‖a − b‖ / ‖b‖",
    "Outputs of the layers on the same tokens, a of the model and b of the reference.",
)
_add(
    "token_agreement",
    "Token agreement",
    "%",
    HIGHER,
    "100 · equal tokens before the first divergence / tokens",
    "Share of the new tokens that are equal up to the first one that differs; what follows has another history.",
)
_add(
    "max_abs_logit_difference",
    "Largest logit difference",
    "",
    LOWER,
    "max |logits A − logits B|",
    "Largest absolute difference of any logit on the same input.",
)
_add(
    "mean_abs_logit_difference",
    "Mean logit difference",
    "",
    LOWER,
    "mean |logits A − logits B|",
    "Absolute difference of a logit on the same input, averaged over the vocabulary and all positions.",
)
_add(
    "top1_accuracy",
    "Top-1 accuracy",
    "%",
    HIGHER,
    "100 · positions whose argmax is the text's token / positions",
    "Share of positions at which the side's first choice is the token that the text has there.",
)
_add(
    "prompts_diverged",
    "Diverged prompts",
    "prompts",
    LOWER,
    "prompts with a differing token",
    "Prompts whose new tokens are not all equal on both sides.",
    "One near tie is enough to diverge: look at the margins and the logit difference before worrying.",
)
_add(
    "prediction_error",
    "Error of the prediction",
    "%",
    NEITHER,
    "100 · (predicted − measured) / measured",
    "How far a plan made beforehand for the same model, mapping, quantization, machine and workload was off.",
)
_add(
    "speedup",
    "Speed-up",
    "×",
    HIGHER,
    "the reference's time an output token / the engine's time an output token",
    "How many times as fast as the reference, both timed by the same clock on the same prompts. Time an output token "
    "is the whole latency over the tokens made, because the sides may make different numbers of tokens.",
)
_add("total_latency_s", "Total latency", "s", LOWER, "sum of latencies", "Time of all batches of the run together.")
_add(
    "output_tokens",
    "Output tokens",
    "tokens",
    NEITHER,
    "sum of new tokens",
    "New tokens of all rows, padding excluded.",
)


def metric_of(name: str) -> Metric | None:
    """Return the metric that a flat name belongs to, or None.

    A name may carry a prefix that ends with a dot (``"b1_i60_o20."``), leading words (``"engine_"``, ``"hf_"``) and a
    trailing statistic (``"_mean"``, ``"_p99"``): ``"b1_i60_o20.ttft_ms_p50"`` is ``ttft_ms``.
    """
    words = _STATISTIC.sub("", name.rsplit(".", 1)[-1])
    while words:
        if words in METRICS:
            return METRICS[words]
        _, _, words = words.partition("_")
    return None


def direction_of(name: str) -> str:
    """Return which way is better for a flat name; a sample size or spread is ``"neither"`` or ``"lower"``."""
    if name.endswith("_n"):
        return NEITHER
    metric = metric_of(name)
    return metric.direction if metric else NEITHER


def metrics_named(names: Iterable[str]) -> list[Metric]:
    """Return the distinct metrics behind flat names, in the catalogue's order."""
    tags = {metric.tag for name in names if (metric := metric_of(name))}
    return [metric for tag, metric in METRICS.items() if tag in tags]
