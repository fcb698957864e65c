"""What `generate` returns: one dictionary in the form that TensorRT-LLM's ModelRunner gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .request import GenerationRequest
from .timing import GenerationTiming


def outputs_from_hypotheses(
    prompts: Sequence[Sequence[int]],
    hypotheses: Sequence[Sequence[Sequence[int]]],
    request: GenerationRequest,
    timing: GenerationTiming,
) -> dict[str, Any]:
    """Return the dictionary of one generation.

    Parameters
    ----------
    prompts
        Token ids of each prompt.
    hypotheses
        New tokens ``[prompt][beam]``, end token included where there is one.
    request
        Gives end and fill tokens and the room.
    timing
        Timestamps.

    Returns
    -------
    dict
        ``output_ids`` (B, W, longest prompt + max_new_tokens) int64: prompt, new tokens, end token, then padding;
        ``sequence_lengths`` (B, W) int64: prompt and new tokens, without end token and padding;
        ``input_lengths``: list of prompt lengths; ``finish_reasons`` ``[prompt][beam]``: ``"end_id"``,
        ``"stop_words"``, ``"length"``, or None while it runs; ``timing``: `GenerationTiming`; ``notes``: sentences.
    """
    width = max(len(prompt) for prompt in prompts) + request.config.max_new_tokens
    rows, lengths, reasons = [], [], []
    for i, (prompt, beams) in enumerate(zip(prompts, hypotheses, strict=True)):
        reasons.append([_finish_reason(new, request, i) for new in beams])
        for new, reason in zip(beams, reasons[-1], strict=True):
            tokens = [*prompt, *new]
            lengths.append(len(tokens) - (reason == "end_id"))
            rows.append(tokens + [request.fill_id] * (width - len(tokens)))
    num_beams = len(hypotheses[0])
    return {
        "output_ids": torch.tensor(rows).view(len(prompts), num_beams, width),
        "sequence_lengths": torch.tensor(lengths).view(len(prompts), num_beams),
        "input_lengths": [len(prompt) for prompt in prompts],
        "finish_reasons": reasons,
        "timing": timing,
        "notes": list(request.notes),
    }


def ends_with_stop_word(new: Sequence[int], request: GenerationRequest, row: int) -> bool:
    """Whether a row's new tokens end in one of its stop words; no part of the word may lie in the prompt."""
    for word in request.stop_words[row] if request.stop_words else ():
        if len(word) <= len(new) and tuple(new[-len(word) :]) == word:
            return True
    return False


def _finish_reason(new: Sequence[int], request: GenerationRequest, row: int) -> str | None:
    if new and new[-1] in request.end_ids:
        return "end_id"
    if ends_with_stop_word(new, request, row):
        return "stop_words"
    return "length" if len(new) == request.config.max_new_tokens else None


def add_log_probs(
    outputs: dict[str, Any], log_probs: torch.Tensor, hypotheses: Sequence[Sequence[Sequence[int]]]
) -> None:
    """Put ``log_probs`` (B, W, steps; 0 past a row's last token) and ``cum_log_probs`` (B, W) into `outputs`."""
    kept = torch.zeros_like(log_probs)
    for row, beams in enumerate(hypotheses):
        for beam, new in enumerate(beams):
            kept[row, beam, : len(new)] = log_probs[row, beam, : len(new)]
    outputs["log_probs"] = kept
    outputs["cum_log_probs"] = kept.sum(dim=-1)
