"""Where two generators part: the first token that differs, and how near the decision was on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NUM_ALTERNATIVES = 5


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """A token that could have come next.

    Attributes
    ----------
    token, text
        Id, and its text where a tokenizer is at hand.
    logit, probability
        The model's own, before any penalty or temperature.
    """

    token: int
    text: str | None
    logit: float
    probability: float


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """The first position at which two outputs differ; both sides saw the same tokens before it.

    Attributes
    ----------
    position
        Index among the new tokens, from 0.
    engine_token, hf_token
        What each side chose; None where it had ended.
    engine_text, hf_text
        Their texts.
    engine_margin, hf_margin
        Largest minus second largest logit of each side: how far the choice was from being another.
    max_abs_logit_difference
        Largest difference of any logit between the sides at this position.
    engine_alternatives, hf_alternatives
        The five likeliest tokens of each side.
    """

    position: int
    engine_token: int | None
    hf_token: int | None
    engine_text: str | None
    hf_text: str | None
    engine_margin: float
    hf_margin: float
    max_abs_logit_difference: float
    engine_alternatives: list[Alternative]
    hf_alternatives: list[Alternative]


@dataclass(frozen=True, kw_only=True)
class LogitDifference:
    """How far the logits of two sides are apart over the same tokens.

    Attributes
    ----------
    positions
        Compared positions.
    max_abs, mean_abs
        Largest and mean absolute difference of a logit.
    logit_range
        Largest minus smallest logit of the reference, to judge the differences by.
    top1_agreement
        Share of positions, in per cent, at which both would choose the same token.
    """

    positions: int
    max_abs: float
    mean_abs: float
    logit_range: float
    top1_agreement: float

    @property
    def max_relative(self) -> float:
        """`max_abs` over `logit_range`."""
        return self.max_abs / self.logit_range if self.logit_range else 0.0


def first_divergence(a: Sequence[int], b: Sequence[int]) -> int | None:
    """Return the first index at which the sequences differ (one may have ended there); None when they are equal."""
    for position, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return position
    return None if len(a) == len(b) else min(len(a), len(b))


def margin(logits: torch.Tensor) -> float:
    """Return the largest minus the second largest of (V,) logits."""
    first, second = logits.topk(2).values.tolist()
    return float(first - second)


def alternatives(logits: torch.Tensor, tokenizer: Any | None, count: int = NUM_ALTERNATIVES) -> list[Alternative]:
    """Return the likeliest tokens of (V,) logits, likeliest first."""
    probabilities = logits.softmax(dim=-1)
    values, tokens = logits.topk(min(count, logits.shape[-1]))
    return [
        Alternative(
            token=token, text=token_text(tokenizer, token), logit=value, probability=float(probabilities[token])
        )
        for value, token in zip(values.tolist(), tokens.tolist(), strict=True)
    ]


def token_text(tokenizer: Any | None, token: int | None) -> str | None:
    """Return a token's own text, special tokens included."""
    if tokenizer is None or token is None:
        return None
    return str(tokenizer.decode([token], clean_up_tokenization_spaces=False))


def logit_difference(engine: torch.Tensor, reference: torch.Tensor) -> LogitDifference:
    """Compare (N, V) logits of two sides at the same positions."""
    difference = (engine - reference).abs()
    agree = engine.argmax(dim=-1) == reference.argmax(dim=-1)
    return LogitDifference(
        positions=int(engine.shape[0]),
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        logit_range=float(reference.max() - reference.min()),
        top1_agreement=100.0 * float(agree.double().mean()),
    )


def divergence_at(
    position: int,
    engine_tokens: Sequence[int],
    hf_tokens: Sequence[int],
    engine_logits: torch.Tensor,
    hf_logits: torch.Tensor,
    tokenizer: Any | None = None,
) -> Divergence:
    """Describe the divergence at `position`.

    Parameters
    ----------
    position
        From `first_divergence`.
    engine_tokens, hf_tokens
        New tokens of both sides.
    engine_logits, hf_logits
        (V,) of each side at that position, the tokens before it being the same.
    tokenizer
        For the texts.
    """
    engine_token = engine_tokens[position] if position < len(engine_tokens) else None
    hf_token = hf_tokens[position] if position < len(hf_tokens) else None
    return Divergence(
        position=position,
        engine_token=engine_token,
        hf_token=hf_token,
        engine_text=token_text(tokenizer, engine_token),
        hf_text=token_text(tokenizer, hf_token),
        engine_margin=margin(engine_logits),
        hf_margin=margin(hf_logits),
        max_abs_logit_difference=float((engine_logits - hf_logits).abs().max()),
        engine_alternatives=alternatives(engine_logits, tokenizer),
        hf_alternatives=alternatives(hf_logits, tokenizer),
    )
