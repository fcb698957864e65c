"""Summarise articles and score the summaries."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

from ..errors import RequestError
from ..evaluation.articles import load_articles
from ..evaluation.gate import gate_outcome
from ..evaluation.paired import Bootstrap
from ..evaluation.summarize import SummarizeResult
from ..evaluation.summarize import summarize as summarize_sides
from ..evaluation.summary_quality import summary_metrics
from ..progress import ProgressSink
from ..runtime import ModelRunner
from ..specs.quality import limit_from
from ..specs.requests import SummarizeSpec
from ..storage import staged_folder
from .keeping import keep
from .labels import label_of
from .loading import hf_dir_for, hf_runner_for, open_engine, tokenizer_for


def summarize(spec: SummarizeSpec, *, progress: ProgressSink | None = None) -> SummarizeResult:
    """Return ROUGE, entity accuracy and speed of the engine, of Hugging Face, or of both.

    Raises
    ------
    EvaluationError
        With `check_accuracy`, when the engine's rouge1 is at or below the threshold. The result is kept all the same.
    """
    if spec.test_trt_llm and spec.engine_dir is None:
        raise RequestError(
            "There is no engine to score.",
            where="engine_dir",
            remedy="Give --engine_dir, or --no-test_trt_llm --test_hf.",
        )
    engine = open_engine(spec.engine_dir, spec.gpu_weights_percent) if spec.engine_dir is not None else None
    articles = load_articles(spec.dataset_dir, split=spec.split, count=spec.max_ite * spec.batch_size)
    if spec.test_hf:
        # Before anything is generated: a missing model must not cost a person the engine's half.
        hf_dir_for(engine, spec.hf_model_dir, progress=progress)
    tokenizer = tokenizer_for(engine, spec.tokenizer_dir or spec.hf_model_dir)
    with ExitStack() as stack:
        runner = None
        if engine is not None and spec.test_trt_llm:
            runner = stack.enter_context(ModelRunner.from_engine(engine))
        hf = None
        if spec.test_hf:
            hf = hf_runner_for(
                engine, spec.hf_model_dir, spec.hf_dtype, trust_remote_code=spec.trust_remote_code, progress=progress
            )
        result = _judged(
            spec,
            summarize_sides(
                runner,
                hf,
                articles,
                tokenizer,
                spec.sampling,
                batch_size=spec.batch_size,
                append_text=spec.append_text,
                max_input_length=spec.max_input_length,
                add_special_tokens=spec.add_special_tokens,
                rouge_types=spec.rouge_types,
                bootstrap_samples=spec.bootstrap_samples,
                threshold=spec.tensorrt_llm_rouge1_threshold,
                model=engine.name if engine is not None else label_of(str(spec.hf_model_dir)),
                name=spec.name,
                progress=progress,
            ),
        )
    keep(result)
    if spec.output_dir is not None:
        _write_summaries(result, Path(spec.output_dir).expanduser())
    if spec.check_accuracy:
        result.check_accuracy()
    return result


def _judged(spec: SummarizeSpec, result: SummarizeResult) -> SummarizeResult:
    """Return the result with the outcome of each limit that the request sets."""
    if not spec.max_drop:
        return result
    bootstrap = Bootstrap(resamples=max(100, spec.bootstrap_samples))
    limits = [limit_from(name, amount) for name, amount in spec.max_drop.items()]
    metrics = summary_metrics(result, [limit.metric for limit in limits], bootstrap)
    gates = [
        gate_outcome(limit, metric, bootstrap.confidence) for limit, metric in zip(limits, metrics, strict=True)
    ]
    return result.replace(gates=gates)


def _write_summaries(result: SummarizeResult, target: Path) -> None:
    """Write each article's reference and summaries as text files."""
    with staged_folder(target, overwrite=True) as staging:
        for number, outcome in enumerate(result.articles):
            stem = f"{number:03d}-{re.sub(r'[^A-Za-z0-9_-]', '_', outcome.id)}"
            texts = {"reference": [outcome.reference], "engine": outcome.engine_texts, "hf": outcome.hf_texts}
            for side, beams in texts.items():
                for beam, text in enumerate(beams):
                    (staging / f"{stem}.{side}{beam if beam else ''}.txt").write_text(text + "\n", encoding="utf-8")
