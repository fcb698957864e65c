"""Hold a model against its float baseline: quality with paired intervals, and what both cost."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from ..errors import EvaluationError
from ..progress import ProgressSink, phase
from ..specs import QualityConfig, SamplingConfig
from .articles import ArticleSet
from .compare import check_vocabularies
from .gate import gate_outcome
from .paired import Bootstrap
from .perplexity import sequences_of
from .quality_result import QualityMetric, QualityResult, SideCost
from .summarize import summarize
from .summary_quality import summary_metrics
from .token_quality import token_metrics, token_scores

SPEED_TOKENS = (64, 32)
"""Prompt and new tokens of a timed run."""
SPEED_RUNS = 5
SUMMARY_TOKENS = 100


def quality(
    runner: Any,
    baseline: Any,
    texts: Sequence[str] | Sequence[Sequence[int]],
    asked: QualityConfig,
    *,
    tokenizer: Any | None = None,
    articles: ArticleSet | None = None,
    labels: tuple[str, str] | None = None,
    quantizations: tuple[str, str] = ("none", "none"),
    dtypes: tuple[str, str] = ("", ""),
    layers: Sequence[dict[str, Any]] = (),
    model: str | None = None,
    name: str | None = None,
    progress: ProgressSink | None = None,
) -> QualityResult:
    """Measure what `asked` names on both sides and judge it by its limits.

    Parameters
    ----------
    runner, baseline
        The model and its baseline: `ModelRunner` or `HFRunner` each.
    texts
        Held-out texts (then `tokenizer` is needed) or token ids, each scored on its own.
    asked
        Measures, limits, amounts.
    tokenizer
        Of both.
    articles
        To summarise; needed for ROUGE and entities.
    labels, quantizations, dtypes
        How the two sides are called, quantized and computed.
    layers
        The per-layer report of the quantization, to keep with the result.
    model, name, progress
        Labels of the result; told after every window and batch.

    Raises
    ------
    EvaluationError
        When the sides have different vocabularies, too little text for an interval, or no measure is asked for.
    """
    measures = asked.measures
    if not measures and not asked.with_speed:
        raise EvaluationError(
            "No measure of quality was asked for.", where="metrics", remedy="Ask for --metrics perplexity, or all."
        )
    check_vocabularies(runner, baseline)
    bootstrap = Bootstrap(resamples=asked.eval_resamples)
    ids = sequences_of(texts, tokenizer, add_special_tokens=False)
    found: list[QualityMetric] = []
    text: dict[str, Any] = {}
    if {"perplexity", "top1", "kl"} & set(measures):
        window = _window(asked.eval_window, runner, baseline)
        scores = token_scores(runner, baseline, ids, window=window, tokens=asked.eval_tokens, progress=progress)
        found += token_metrics(scores, measures, bootstrap)
        text = {
            "source": asked.eval_dataset,
            "texts": len(ids),
            "tokens": sum(score.tokens for score in scores),
            "window": window,
            "stride": window // 2,
        }
    of_summaries = [name for name in measures if name not in ("perplexity", "top1", "kl")]
    if of_summaries:
        if articles is None:
            raise EvaluationError("There are no articles to summarise.", where="articles", remedy="Give articles.")
        if not articles.has_entities and "entities" not in asked.max_drop:
            of_summaries = [name for name in of_summaries if name != "entities"]
        sampling = SamplingConfig(max_new_tokens=SUMMARY_TOKENS)
        summaries = summarize(
            runner, baseline, articles, tokenizer, sampling, bootstrap_samples=0, model=model, progress=progress
        )
        found += summary_metrics(summaries, of_summaries, bootstrap)
    times = _times(runner, baseline, ids, progress) if asked.with_speed else ({}, {})
    called = labels or (str(runner.name), str(baseline.name))
    costs = [
        SideCost(
            label=called[i],
            backend=side.backend,
            dtype=dtypes[i] or str(getattr(side, "dtype", "")),
            quantization=quantizations[i],
            weights_bytes=side.memory().get("weights_bytes"),
            **times[i],
        )
        for i, side in enumerate((runner, baseline))
    ]
    by_name = {metric.name: metric for metric in found}
    return QualityResult(
        backend=runner.backend,
        model=model or runner.name,
        name=name,
        spec=asked.to_dict(),
        quality=found,
        cost=costs[0],
        baseline_cost=costs[1],
        text=text,
        articles=len(articles.articles) if of_summaries and articles is not None else 0,
        resamples=bootstrap.resamples,
        confidence=bootstrap.confidence,
        seed=bootstrap.seed,
        gates=[gate_outcome(limit, by_name[limit.metric], bootstrap.confidence) for limit in asked.limits],
        layers=[dict(layer) for layer in layers],
    )


def _window(asked: int, *sides: Any) -> int:
    limits = [side.limits.max_seq_len for side in sides]
    return min([asked, *(limit for limit in limits if limit is not None)])


def _times(
    runner: Any, baseline: Any, ids: Sequence[Sequence[int]], progress: ProgressSink | None
) -> tuple[dict[str, float], dict[str, float]]:
    """Time both sides in turns at batch 1, after an untimed run of each."""
    prompt_tokens, new_tokens = SPEED_TOKENS
    rooms = [side.limits.prompt_room(new_tokens) for side in (runner, baseline)]
    room = min([prompt_tokens, *(room for room in rooms if room is not None)])
    prompt = [token for text in ids for token in text][:room]
    sampling = SamplingConfig(max_new_tokens=new_tokens)  # no end token: both make as many tokens
    runs: tuple[list[Any], list[Any]] = ([], [])
    with phase("time both sides", progress, total=SPEED_RUNS + 1, unit="run") as current:
        for turn in range(SPEED_RUNS + 1):
            for kept, side in zip(runs, (runner, baseline), strict=True):
                timing = side.generate([prompt], sampling)["timing"]
                if turn:
                    kept.append([token - timing.started_ns for token in timing.token_ns])
            current.advance()
    return _cost(runs[0]), _cost(runs[1])


def _cost(runs: Sequence[Sequence[int]]) -> dict[str, float]:
    first = [run[0] / 1e6 for run in runs]
    found = {"ttft_ms": median(first), "ttft_ms_low": min(first), "ttft_ms_high": max(first)}
    gaps = [(run[-1] - run[0]) / (len(run) - 1) / 1e6 for run in runs if len(run) > 1]
    if gaps:
        found |= {"tpot_ms": median(gaps), "tpot_ms_low": min(gaps), "tpot_ms_high": max(gaps)}
    return found
