"""Quality against a baseline, for the verbs that report it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import EvaluationError, TrtbenchError
from ..evaluation.articles import ArticleSet, load_articles, load_texts
from ..evaluation.quality import quality
from ..evaluation.quality_result import QualityResult
from ..progress import ProgressSink
from ..results.database import ResultsDatabase
from ..results.steps import ConvertStep
from ..specs import QualityConfig
from .keeping import keep
from .sides import Side


def measured_quality(
    side: Side,
    baseline: Side,
    asked: QualityConfig,
    tokenizer_dir: Path | str | None,
    *,
    layers: Sequence[dict[str, Any]] | None = None,
    name: str | None = None,
    trust_remote_code: bool = False,
    progress: ProgressSink | None = None,
) -> QualityResult:
    """Measure `side` against `baseline`, keep the result and return it.

    `layers` None looks the per-layer report of the side's checkpoint up in the history.
    """
    from ..intake.tokenizer import load_tokenizer

    folder = tokenizer_dir or baseline.hf_dir or side.hf_dir
    if folder is None:
        raise EvaluationError(
            "No tokenizer is known here.", where=side.label, remedy="Give the model's folder with --tokenizer_dir."
        )
    result = quality(
        side.runner,
        baseline.runner,
        eval_texts(asked),
        asked,
        tokenizer=load_tokenizer(folder, trust_remote_code=trust_remote_code),
        articles=_articles(asked),
        labels=(side.label, baseline.label),
        quantizations=(side.quantization, baseline.quantization),
        dtypes=(side.dtype, baseline.dtype),
        layers=_layers_of(side.checkpoint_dir) if layers is None else layers,
        model=side.label,
        name=name,
        progress=progress,
    )
    return keep(result)


def eval_texts(asked: QualityConfig) -> list[str]:
    """Return the held-out texts that a request names."""
    return load_texts(None if asked.eval_dataset == "demo" else asked.eval_dataset, split="test")


def _articles(asked: QualityConfig) -> ArticleSet | None:
    if not any(name.startswith("rouge") or name == "entities" for name in asked.measures):
        return None
    source = None if asked.eval_dataset == "demo" else asked.eval_dataset
    return load_articles(source, split="test", count=asked.eval_articles)


def _layers_of(checkpoint_dir: Path | None) -> list[dict[str, Any]]:
    """Return the per-layer report of a checkpoint that was quantized here; empty where the history has none."""
    if checkpoint_dir is None:
        return []
    try:
        database = ResultsDatabase()
        for row in database.query(kind="quantize", limit=200):
            step = database.get(row.id)
            if isinstance(step, ConvertStep) and Path(step.output_dir).absolute() == checkpoint_dir.absolute():
                return step.layers
    except TrtbenchError:  # a history that cannot be read costs the report one table, and says so elsewhere
        return []
    return []
