"""Summarise articles with an engine, with Hugging Face, or both, and score the summaries."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import EvaluationError
from ..progress import ProgressSink, phase
from .articles import Article, ArticleSet
from .bootstrap import DEFAULT_SAMPLES
from .compare import check_vocabularies, with_tokenizers_ids
from .entities import entity_accuracy
from .rouge import ROUGE_TYPES, rouge_scores
from .summarize_result import ArticleOutcome, SideScore, SummarizeResult

if TYPE_CHECKING:
    from ..runtime import HFRunner, ModelRunner
    from ..specs import SamplingConfig

APPEND_TEXT = " TL;DR: "
MAX_INPUT_LENGTH = 923  # TensorRT-LLM's: with 100 new tokens it fits GPT-2's 1,024 positions
ROUGE1_THRESHOLD = 14.0

__all__ = ["SummarizeResult", "summarize", "summary_prompts"]


def summarize(
    runner: ModelRunner | None,
    hf: HFRunner | None,
    articles: ArticleSet,
    tokenizer: Any,
    sampling: SamplingConfig | None = None,
    *,
    batch_size: int = 1,
    append_text: str = APPEND_TEXT,
    max_input_length: int = MAX_INPUT_LENGTH,
    add_special_tokens: bool = True,
    rouge_types: Sequence[str] = ROUGE_TYPES,
    bootstrap_samples: int = DEFAULT_SAMPLES,
    threshold: float = ROUGE1_THRESHOLD,
    model: str | None = None,
    name: str | None = None,
    progress: ProgressSink | None = None,
) -> SummarizeResult:
    """Summarise and score.

    Parameters
    ----------
    runner, hf
        The sides; either may be None.
    articles
        From `load_articles`.
    tokenizer
        Of the model.
    sampling
        For both sides; None: greedy, 100 new tokens. An ``end_id`` or ``pad_id`` of None becomes the tokenizer's.
    batch_size
        Articles at a time.
    append_text
        What follows the article in the prompt.
    max_input_length
        Longest prompt in tokens. A longer article is cut off at its end; `append_text` always stays.
    add_special_tokens
        When encoding the article.
    rouge_types, bootstrap_samples
        Scores, and the resamples behind their intervals (0: the plain mean, no interval).
    threshold
        The rouge1 (× 100, first beam) that the engine must exceed for the verdict.
    model, name, progress
        Labels of the result; told after every batch.

    Raises
    ------
    EvaluationError
        Without any side, or when the sides have different vocabularies.
    RequestError
        When the engine does not take the prompts.
    """
    from ..specs import SamplingConfig

    sides: list[Any] = [side for side in (runner, hf) if side is not None]
    if not sides:
        raise EvaluationError(
            "Neither the engine nor Hugging Face was given to summarise.", remedy="Pass a runner, the HF side, or both."
        )
    if runner is not None and hf is not None:
        check_vocabularies(runner, hf)
    if batch_size < 1:
        raise EvaluationError(f"A batch of {batch_size} articles is not possible.", where="batch_size")
    sampling = with_tokenizers_ids(sampling or SamplingConfig(), tokenizer)
    rooms = [side.limits.prompt_room(sampling.max_new_tokens) for side in sides]
    room = min([max_input_length, *(room for room in rooms if room is not None)])
    prompts = summary_prompts(
        tokenizer, articles.articles, append_text=append_text, room=room, add_special_tokens=add_special_tokens
    )
    scored: list[SideScore | None] = []
    texts: list[list[list[str]]] = []
    for side in (runner, hf):
        if side is None:
            scored.append(None)
            texts.append([[] for _ in prompts])
            continue
        made = _generate(side, prompts, sampling, tokenizer, batch_size, progress)
        scored.append(_score(side.backend, made, articles, rouge_types, bootstrap_samples))
        texts.append(made.texts)
    outcomes = [
        ArticleOutcome(
            id=article.id,
            prompt_tokens=len(prompt),
            reference=article.highlights,
            entities=article.entities,
            engine_texts=engine_texts,
            hf_texts=hf_texts,
        )
        for article, prompt, engine_texts, hf_texts in zip(articles.articles, prompts, *texts, strict=True)
    ]
    return SummarizeResult(
        backend=runner.backend if runner is not None else "huggingface",
        model=model or sides[0].name,
        name=name,
        spec={
            "source": articles.source,
            "split": articles.split,
            "articles": len(outcomes),
            "batch_size": batch_size,
            "append_text": append_text,
            "max_input_length": room,
            "sampling": sampling.to_dict(),
        },
        engine=scored[0],
        hf=scored[1],
        articles=outcomes,
        threshold=threshold,
    )


def summary_prompts(
    tokenizer: Any, articles: Sequence[Article], *, append_text: str, room: int, add_special_tokens: bool = True
) -> list[list[int]]:
    """Return each article's prompt: its text and `append_text`, at most `room` tokens, the cut inside the article.

    Raises
    ------
    EvaluationError
        When `append_text` alone leaves no room for a token of the article.
    """
    ending = list(tokenizer.encode(append_text, add_special_tokens=False)) if append_text else []
    if room <= len(ending):
        raise EvaluationError(
            f"A prompt of {room} tokens has no room for an article: {append_text!r} alone takes {len(ending)}.",
            where="max_input_length",
            remedy="Build with a larger max_input_len or max_seq_len, or ask for fewer new tokens.",
        )
    prompts = []
    for article in articles:
        ids = list(tokenizer.encode(article.article + append_text, add_special_tokens=add_special_tokens))
        if len(ids) > room:
            body = list(tokenizer.encode(article.article, add_special_tokens=add_special_tokens))
            ids = body[: room - len(ending)] + ending
        prompts.append(ids)
    return prompts


class _Made:
    """Texts and figures of one side."""

    def __init__(self) -> None:
        self.texts: list[list[str]] = []
        self.batch_latency_ms: list[float] = []
        self.output_tokens = 0


def _generate(
    side: ModelRunner | HFRunner,
    prompts: list[list[int]],
    sampling: SamplingConfig,
    tokenizer: Any,
    batch_size: int,
    progress: ProgressSink | None,
) -> _Made:
    from ..runtime.text import decode_outputs

    made = _Made()
    batches = [prompts[start : start + batch_size] for start in range(0, len(prompts), batch_size)]
    side.generate(batches[0], sampling)  # untimed: the first run of a process pays for what later ones reuse
    with phase(f"summarise with {side.backend}", progress, total=len(prompts), unit="article") as current:
        for batch in batches:
            outputs = side.generate(batch, sampling)
            made.batch_latency_ms.append((time.perf_counter_ns() - outputs["timing"].started_ns) / 1e6)
            made.texts += decode_outputs(tokenizer, outputs)
            lengths = outputs["sequence_lengths"]
            starts = outputs["input_lengths"]
            made.output_tokens += int(
                sum(int(lengths[row].sum()) - len(lengths[row]) * starts[row] for row in range(len(batch)))
            )
            current.advance(len(batch))
    return made


def _score(
    backend: str, made: _Made, articles: ArticleSet, rouge_types: Sequence[str], bootstrap_samples: int
) -> SideScore:
    references = [article.highlights for article in articles.articles]
    entities = [article.entities for article in articles.articles]
    num_beams = len(made.texts[0])
    beams = [[texts[beam] for texts in made.texts] for beam in range(num_beams)]
    return SideScore(
        backend=backend,
        rouge=[rouge_scores(b, references, rouge_types=rouge_types, resamples=bootstrap_samples) for b in beams],
        entity_accuracy=[entity_accuracy(b, entities) if articles.has_entities else None for b in beams],
        batch_latency_ms=made.batch_latency_ms,
        output_tokens=made.output_tokens,
    )
