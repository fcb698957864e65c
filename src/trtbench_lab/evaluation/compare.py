"""Side by side: the same prompts and sampling through an engine and through Hugging Face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import EvaluationError
from ..progress import ProgressSink, phase
from .compare_result import CompareResult, PromptComparison, SideMemory, SideOutput
from .divergence import divergence_at, first_divergence, logit_difference
from .rss import peak_rss_delta_bytes

if TYPE_CHECKING:
    from ..runtime import GenerationTiming, HFRunner, ModelRunner
    from ..specs import SamplingConfig

Peaks = tuple[int | None, int | None]  # of the engine and of Hugging Face

__all__ = ["CompareResult", "compare"]


def compare(
    runner: ModelRunner,
    hf: HFRunner,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    sampling: SamplingConfig | None = None,
    *,
    tokenizer: Any | None = None,
    texts: Sequence[str | None] | None = None,
    add_special_tokens: bool = True,
    truncation: str = "error",
    num_runs: int = 1,
    warm_up: int = 1,
    model: str | None = None,
    name: str | None = None,
    progress: ProgressSink | None = None,
) -> CompareResult:
    """Generate with both sides, prompt by prompt at batch 1, and compare tokens, logits, latency and memory.

    Parameters
    ----------
    runner, hf
        The sides.
    prompts
        Texts (then `tokenizer` is needed) or token ids.
    sampling
        For both sides; None: greedy. An ``end_id`` or ``pad_id`` of None becomes the tokenizer's. With sampling, both
        sides draw from the same random numbers, so they differ only where their logits do.
    tokenizer
        Encodes prompts and decodes outputs.
    texts
        The prompts' texts to show, where `prompts` are token ids.
    add_special_tokens
        When encoding prompts.
    truncation
        For prompts longer than the engine takes: ``"error"``, ``"left"``, ``"right"``; both sides get the same tokens.
    num_runs, warm_up
        Timed repetitions (the median counts) and untimed ones before them; memory is watched in the untimed ones.
    model, name
        Labels of the result.
    progress
        Told after every prompt.

    Raises
    ------
    EvaluationError
        When the sides have different vocabularies, or settings are out of range.
    RequestError
        For prompts that the engine does not take.
    """
    from ..specs import SamplingConfig

    if num_runs < 1 or warm_up < 0:
        raise EvaluationError(
            f"{num_runs} timed and {warm_up} untimed runs are not possible.", remedy="Use num_runs ≥ 1 and warm_up ≥ 0."
        )
    check_vocabularies(runner, hf)
    own_texts, ids = _prompts(prompts, tokenizer, add_special_tokens)
    shown = own_texts if texts is None else list(texts)
    if len(shown) != len(ids):
        raise EvaluationError(
            f"There are {len(shown)} texts for {len(ids)} prompts.", where="texts", remedy="Pass one text a prompt."
        )
    sampling = with_tokenizers_ids(sampling or SamplingConfig(), tokenizer)
    ids = runner.limits.fitted(ids, truncation, sampling.max_new_tokens)
    comparisons: list[PromptComparison] = []
    notes: list[str] = []
    memory: Peaks = (None, None)
    with phase("compare with Hugging Face", progress, total=len(ids), unit="prompt") as current:
        for i, (text, tokens) in enumerate(zip(shown, ids, strict=True)):
            comparison, notes, peaks = _compare_prompt(runner, hf, text, tokens, sampling, tokenizer, num_runs, warm_up)
            comparisons.append(comparison)
            memory = peaks if i == 0 else memory
            current.advance()
    held = runner.memory()
    return CompareResult(
        backend=runner.backend,
        model=model or runner.name,
        name=name,
        spec={"sampling": sampling.to_dict(), "truncation": truncation, "add_special_tokens": add_special_tokens},
        prompts=comparisons,
        hf_model=hf.name,
        hf_dtype=hf.dtype,
        engine_memory=SideMemory(
            weights_bytes=held.get("weights_bytes"),
            kv_cache_bytes=held.get("kv_cache_bytes"),
            process_rss_peak_delta_bytes=memory[0],
        ),
        hf_memory=SideMemory(
            weights_bytes=hf.memory()["weights_bytes"], kv_cache_bytes=None, process_rss_peak_delta_bytes=memory[1]
        ),
        num_runs=num_runs,
        warm_up=warm_up,
        notes=notes,
    )


def check_vocabularies(runner: ModelRunner, hf: HFRunner) -> None:
    """Raise `EvaluationError` when the sides cannot be of one model."""
    if runner.vocab_size != hf.vocab_size:
        raise EvaluationError(
            f"The engine's vocabulary has {runner.vocab_size} tokens and the Hugging Face model's {hf.vocab_size}.",
            where=hf.name,
            remedy="Compare the engine with the model that it was built from.",
        )


def with_tokenizers_ids(sampling: SamplingConfig, tokenizer: Any | None) -> SamplingConfig:
    """Return the sampling with the tokenizer's end and padding token where none is given."""
    from ..runtime.text import end_and_pad_id

    if tokenizer is None:
        return sampling
    end_id, pad_id = end_and_pad_id(tokenizer)
    return sampling.replace(
        end_id=end_id if sampling.end_id is None else sampling.end_id,
        pad_id=pad_id if sampling.pad_id is None else sampling.pad_id,
    )


def _prompts(
    prompts: Sequence[str] | Sequence[Sequence[int]], tokenizer: Any | None, add_special_tokens: bool
) -> tuple[list[str | None], list[list[int]]]:
    from ..runtime.text import encode_prompts

    if isinstance(prompts, str) or not len(prompts):
        raise EvaluationError(
            "There are no prompts to compare." if not len(prompts) else "The prompts are one text, not a list.",
            where="prompts",
            remedy="Pass a list of texts.",
        )
    if not isinstance(prompts[0], str):
        return [None] * len(prompts), [[int(token) for token in row] for row in prompts]  # type: ignore[union-attr]
    if tokenizer is None:
        raise EvaluationError(
            "The prompts are texts and there is no tokenizer.",
            where="tokenizer",
            remedy="Pass tokenizer=, or token ids.",
        )
    texts = list(prompts)
    return texts, encode_prompts(tokenizer, texts, add_special_tokens=add_special_tokens)  # type: ignore[arg-type,return-value]


def _compare_prompt(
    runner: ModelRunner,
    hf: HFRunner,
    text: str | None,
    tokens: list[int],
    sampling: SamplingConfig,
    tokenizer: Any | None,
    num_runs: int,
    warm_up: int,
) -> tuple[PromptComparison, list[str], Peaks]:
    peaks: Peaks = (None, None)
    for run in range(warm_up):
        watched = (
            peak_rss_delta_bytes(lambda: runner.generate([tokens], sampling)),
            peak_rss_delta_bytes(lambda: hf.generate([tokens], sampling)),
        )
        peaks = watched if run == 0 else peaks
    made: dict[str, list[dict[str, Any]]] = {"engine": [], "hf": []}
    for _ in range(num_runs):  # in turns, so that a change of the machine's speed meets both
        made["engine"].append(runner.generate([tokens], sampling))
        made["hf"].append(hf.generate([tokens], sampling))
    engine, other = (_side_output(made[side], tokenizer) for side in ("engine", "hf"))
    # Position t of the logits chose new token t: from the prompt's last token to the last but one.
    sequence, first = tokens + other.tokens[:-1], len(tokens) - 1
    (engine_logits,), (hf_logits,) = runner.logits_of([sequence], [first]), hf.logits_of([sequence], [first])
    position = first_divergence(engine.tokens, other.tokens)
    divergence = None
    if position is not None and position < len(other.tokens):
        divergence = divergence_at(
            position, engine.tokens, other.tokens, engine_logits[position], hf_logits[position], tokenizer
        )
    elif position is not None:
        # Hugging Face had ended: the engine's next choice needs the logits after its last token.
        after = tokens + other.tokens
        (e,), (h,) = runner.logits_of([after], [len(after) - 1]), hf.logits_of([after], [len(after) - 1])
        divergence = divergence_at(position, engine.tokens, other.tokens, e[0], h[0], tokenizer)
    comparison = PromptComparison(
        prompt=text,
        prompt_tokens=tokens,
        engine=engine,
        hf=other,
        divergence=divergence,
        logits=logit_difference(engine_logits, hf_logits),
    )
    return comparison, made["engine"][-1]["notes"], peaks


def _side_output(runs: list[dict[str, Any]], tokenizer: Any | None) -> SideOutput:
    from ..runtime.text import new_tokens_of

    last = runs[-1]
    text = None
    if tokenizer is not None:
        text = tokenizer.decode(new_tokens_of(last, 0), skip_special_tokens=True)
    return SideOutput(
        tokens=new_tokens_of(last, 0, with_end=True),
        text=text,
        finish_reason=last["finish_reasons"][0][0],
        token_ns=[_since_start(run["timing"]) for run in runs],
    )


def _since_start(timing: GenerationTiming) -> list[int]:
    return [token_ns - timing.started_ns for token_ns in timing.token_ns]
