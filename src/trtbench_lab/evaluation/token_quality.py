"""Perplexity, top-1 agreement and KL divergence of the next token, window by window, both sides on the same tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import EvaluationError
from ..progress import ProgressSink, phase
from .paired import Bootstrap, paired_metric
from .perplexity import windows_of
from .quality_result import QualityMetric

if TYPE_CHECKING:
    import numpy as np
    import torch

_CHUNK_ELEMENTS = 1 << 22
"""Logits compared at a time in float64: 32 MB a side."""


@dataclass(frozen=True, kw_only=True)
class WindowScores:
    """Sums over the scored tokens of one window.

    Attributes
    ----------
    tokens
        How many.
    nll, baseline_nll
        Negative log-likelihoods of the text's tokens, in nats.
    kl
        KL divergence of the model's next-token distribution from the baseline's, in nats.
    agreeing
        Tokens at which both sides' first choices are the same.
    """

    tokens: int
    nll: float
    baseline_nll: float
    kl: float
    agreeing: int


def scored_windows(lengths: Sequence[int], *, window: int, tokens: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (text, begin, end, first scored position) of windows until `tokens` tokens are scored.

    Windows move on by half their length, and each token is scored once, as `perplexity` does.
    """
    left = tokens
    for number, length in enumerate(lengths):
        for begin, end, first in windows_of(length, window, max(1, window // 2)):
            if left <= 0:
                return
            end = min(end, first + left)
            yield number, begin, end, first
            left -= end - first


def window_scores(logits: torch.Tensor, baseline: torch.Tensor, targets: torch.Tensor) -> WindowScores:
    """Compare (N, V) logits of both sides at the positions before `targets` (N,)."""
    rows = max(1, _CHUNK_ELEMENTS // logits.shape[-1])
    nll = baseline_nll = kl = 0.0
    agreeing = 0
    for start in range(0, len(targets), rows):
        part = slice(start, start + rows)
        ours = logits[part].double().log_softmax(-1)
        theirs = baseline[part].double().log_softmax(-1)
        wanted = targets[part, None]
        nll -= float(ours.gather(1, wanted).sum())
        baseline_nll -= float(theirs.gather(1, wanted).sum())
        kl += float((theirs.exp() * (theirs - ours)).sum())
        agreeing += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
    return WindowScores(tokens=len(targets), nll=nll, baseline_nll=baseline_nll, kl=kl, agreeing=agreeing)


def token_scores(
    runner: Any,
    baseline: Any,
    texts: Sequence[Sequence[int]],
    *,
    window: int,
    tokens: int,
    progress: ProgressSink | None = None,
) -> list[WindowScores]:
    """Score token ids by teacher forcing with both sides.

    Raises
    ------
    EvaluationError
        When nothing can be scored, or a side's logits are not finite.
    """
    import torch

    windows = list(scored_windows([len(ids) for ids in texts], window=window, tokens=tokens))
    if not windows:
        raise EvaluationError(
            "No text has two tokens or more, so nothing can be scored.",
            where="eval_dataset",
            remedy="Give longer texts.",
        )
    found = []
    with phase("score text with both sides", progress, total=len(windows), unit="window") as current:
        for number, begin, end, first in windows:
            piece = list(texts[number][begin:end])
            at = [first - 1 - begin]
            ours, theirs = runner.logits_of([piece[:-1]], at)[0], baseline.logits_of([piece[:-1]], at)[0]
            for side, logits in ((runner, ours), (baseline, theirs)):
                if not bool(torch.isfinite(logits).all()):
                    raise EvaluationError(
                        "The logits are not finite.",
                        where=f"{side.name or side.backend}, text {number}, tokens {begin} to {end}",
                        remedy="The model overflows: compute in bfloat16 or float32, or quantize it anew.",
                    )
            found.append(window_scores(ours, theirs, torch.tensor(texts[number][first:end])))
            current.advance()
    return found


def token_metrics(scores: Sequence[WindowScores], measures: Sequence[str], bootstrap: Bootstrap) -> list[QualityMetric]:
    """Return the measures asked for among perplexity, top1 and kl."""
    table = [(s.tokens, s.nll, s.baseline_nll, s.kl, s.agreeing) for s in scores]
    return [
        paired_metric(name, table, _STATISTICS[name], of="windows", bootstrap=bootstrap)
        for name in measures
        if name in _STATISTICS
    ]


def _perplexity(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    return np.exp(sums[..., 1] / sums[..., 0]), np.exp(sums[..., 2] / sums[..., 0])


def _kl(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return sums[..., 3] / sums[..., 0], 0 * sums[..., 0]


def _top1(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return 100 * sums[..., 4] / sums[..., 0], 100 + 0 * sums[..., 0]


_STATISTICS = {"perplexity": _perplexity, "top1": _top1, "kl": _kl}
