"""Perplexity and top-1 agreement on a text set, engine against Hugging Face, over the same windows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import EvaluationError
from ..progress import ProgressSink, phase
from ..results import Result, Table

if TYPE_CHECKING:
    import torch

    from ..runtime import HFRunner, ModelRunner


@dataclass(frozen=True, kw_only=True)
class PerplexityResult(Result):
    """Perplexity of both sides; `backend` is the engine's.

    Attributes
    ----------
    engine_perplexity, hf_perplexity
        exp(mean negative log-likelihood of the scored tokens, in nats); `hf_perplexity` None without that side.
    top1_agreement
        Share of scored positions, in per cent, at which both sides would choose the same token.
    engine_top1_accuracy, hf_top1_accuracy
        Share at which the side's first choice is the text's token.
    max_abs_logit_difference, mean_abs_logit_difference
        Over all scored positions.
    num_texts, num_tokens
        Texts, and scored tokens (the first of each text has nothing before it and is not scored).
    window, stride
        Most tokens given at once, and tokens by which the window moves on.
    """

    kind: ClassVar[str] = "perplexity"

    engine_perplexity: float
    hf_perplexity: float | None
    top1_agreement: float | None
    engine_top1_accuracy: float
    hf_top1_accuracy: float | None
    max_abs_logit_difference: float | None
    mean_abs_logit_difference: float | None
    num_texts: int
    num_tokens: int
    window: int
    stride: int

    @property
    def metrics(self) -> dict[str, int | float | None]:
        names = (
            "engine_perplexity",
            "hf_perplexity",
            "top1_agreement",
            "engine_top1_accuracy",
            "hf_top1_accuracy",
            "max_abs_logit_difference",
            "mean_abs_logit_difference",
            "num_texts",
            "num_tokens",
        )
        return {name: getattr(self, name) for name in names}

    def tables(self) -> list[Table]:
        rows = [
            ("perplexity", self.engine_perplexity, self.hf_perplexity),
            ("top-1 accuracy (%)", self.engine_top1_accuracy, self.hf_top1_accuracy),
        ]
        note = f"{self.num_tokens:,} tokens of {self.num_texts} text(s), window {self.window}, stride {self.stride}."
        if self.top1_agreement is not None:
            note += (
                f" Top-1 agreement {self.top1_agreement:.2f} %; |Δ logit| at most "
                f"{self.max_abs_logit_difference:.3g}, {self.mean_abs_logit_difference:.3g} on average."
            )
        return [Table(columns=("", f"engine ({self.backend})", "Hugging Face"), rows=rows, note=note)]


class _Totals:
    """Sums over positions of one side, or of the difference between both."""

    def __init__(self) -> None:
        self.tokens = self.right = self.agreeing = 0
        self.negative_log_likelihood = self.difference = self.largest = 0.0

    def add(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        log_probs = logits.double().log_softmax(dim=-1).gather(1, targets[:, None])
        self.negative_log_likelihood -= float(log_probs.sum())
        self.right += int((logits.argmax(dim=-1) == targets).sum())
        self.tokens += len(targets)

    def add_pair(self, engine: torch.Tensor, other: torch.Tensor) -> None:
        difference = (engine - other).abs()
        self.difference += float(difference.mean(dim=-1).sum())
        self.largest = max(self.largest, float(difference.max()))
        self.agreeing += int((engine.argmax(dim=-1) == other.argmax(dim=-1)).sum())

    @property
    def perplexity(self) -> float:
        return math.exp(self.negative_log_likelihood / self.tokens)


def perplexity(
    runner: ModelRunner,
    hf: HFRunner | None,
    texts: Sequence[str] | Sequence[Sequence[int]],
    *,
    tokenizer: Any | None = None,
    window: int | None = None,
    stride: int | None = None,
    add_special_tokens: bool = False,
    model: str | None = None,
    name: str | None = None,
    progress: ProgressSink | None = None,
) -> PerplexityResult:
    """Score texts by teacher forcing.

    A text longer than the window is read in windows that move on by `stride`; each token is scored once, in the first
    window that holds it, with at least ``window − stride`` tokens before it (except near the text's beginning).

    Parameters
    ----------
    runner, hf
        The sides; `hf` None scores the engine alone.
    texts
        Texts (then `tokenizer` is needed) or token ids; each is scored on its own.
    tokenizer, add_special_tokens
        For encoding.
    window
        Most tokens given at once; None: the engine's longest sequence.
    stride
        Tokens by which the window moves on; None: half the window.
    model, name, progress
        Labels of the result; told after every text.

    Raises
    ------
    EvaluationError
        Without a text of at least two tokens, or for a window or stride that is not possible.
    """
    import torch

    from .compare import check_vocabularies

    if hf is not None:
        check_vocabularies(runner, hf)
    window, stride = _window_and_stride(runner, hf, window, stride)
    sequences = sequences_of(texts, tokenizer, add_special_tokens)
    totals, other_totals = _Totals(), _Totals()
    with phase("perplexity", progress, total=len(sequences), unit="text") as current:
        for ids in sequences:
            for begin, end, first_target in windows_of(len(ids), window, stride):
                piece, first = ids[begin:end], first_target - 1 - begin
                targets = torch.tensor(ids[first_target:end])
                logits = runner.logits_of([piece[:-1]], [first])[0]
                totals.add(logits, targets)
                if hf is not None:
                    other = hf.logits_of([piece[:-1]], [first])[0]
                    other_totals.add(other, targets)
                    totals.add_pair(logits, other)
            current.advance()
    tokens = totals.tokens
    both = hf is not None
    return PerplexityResult(
        backend=runner.backend,
        model=model or runner.name,
        name=name,
        spec={"window": window, "stride": stride, "add_special_tokens": add_special_tokens},
        engine_perplexity=totals.perplexity,
        hf_perplexity=other_totals.perplexity if both else None,
        top1_agreement=100.0 * totals.agreeing / tokens if both else None,
        engine_top1_accuracy=100.0 * totals.right / tokens,
        hf_top1_accuracy=100.0 * other_totals.right / tokens if both else None,
        max_abs_logit_difference=totals.largest if both else None,
        mean_abs_logit_difference=totals.difference / tokens if both else None,
        num_texts=len(sequences),
        num_tokens=tokens,
        window=window,
        stride=stride,
    )


def windows_of(length: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yield (begin, end, first scored position) of each window over `length` tokens; position 0 is never scored."""
    scored = 1
    for begin in range(0, length, stride):
        end = min(begin + window, length)
        if scored < end:
            yield begin, end, scored
            scored = end
        if end == length:
            return


def _window_and_stride(
    runner: ModelRunner, hf: HFRunner | None, window: int | None, stride: int | None
) -> tuple[int, int]:
    limits = [runner.limits.max_seq_len, None if hf is None else hf.limits.max_seq_len]
    longest = min([limit for limit in limits if limit is not None], default=1024)
    window = longest if window is None else window
    if not 2 <= window <= longest:
        raise EvaluationError(
            f"A window of {window} tokens is not possible.", where="window", remedy=f"Use 2 to {longest} tokens."
        )
    stride = max(1, window // 2) if stride is None else stride
    if not 1 <= stride < window:
        raise EvaluationError(
            f"A stride of {stride} tokens would leave tokens unscored or standing still.",
            where="stride",
            remedy=f"Use 1 to {window - 1} tokens.",
        )
    return window, stride


def sequences_of(
    texts: Sequence[str] | Sequence[Sequence[int]], tokenizer: Any | None, add_special_tokens: bool
) -> list[list[int]]:
    """Return texts as token ids, those of fewer than two tokens left out; token ids are taken as they are."""
    from ..runtime.text import encode_prompts

    if isinstance(texts, str):
        raise EvaluationError("The texts are one text, not a list.", where="texts", remedy="Pass [text].")
    given = [text for text in texts if text]
    if given and isinstance(given[0], str):
        if tokenizer is None:
            raise EvaluationError("There is no tokenizer for the texts.", where="tokenizer", remedy="Pass tokenizer=.")
        sequences = encode_prompts(tokenizer, given, add_special_tokens=add_special_tokens)  # type: ignore[arg-type]
    else:
        sequences = [[int(token) for token in ids] for ids in given]
    sequences = [ids for ids in sequences if len(ids) > 1]
    if not sequences:
        raise EvaluationError(
            "No text has two tokens or more, so nothing can be scored.", where="texts", remedy="Pass longer texts."
        )
    return sequences
