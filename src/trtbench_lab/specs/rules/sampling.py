"""Which choices of tokens exclude each other."""

from __future__ import annotations

from collections.abc import Iterator

from ..conflicts import Conflict, rule
from ..sampling import SamplingConfig


@rule(SamplingConfig)
def beams_do_not_sample(sampling: SamplingConfig) -> Iterator[Conflict]:
    if sampling.num_beams == 1:
        return
    random = []
    if sampling.top_k != 1:
        random.append(f"top_k {sampling.top_k}")
    if sampling.top_p > 0:
        random.append(f"top_p {sampling.top_p:g}")
    if random:
        yield Conflict(
            ("SamplingConfig.num_beams", "SamplingConfig.top_k", "SamplingConfig.top_p"),
            f"Beam search (num_beams {sampling.num_beams}) takes the best beams and does not draw at random, and "
            f"{' and '.join(random)} asks for that.",
            "Set num_beams to 1 to sample, or top_k to 1 and top_p to 0 to search.",
            {"SamplingConfig.num_beams": 1},
            ({"SamplingConfig.top_k": 1, "SamplingConfig.top_p": 0.0},),
        )


@rule(SamplingConfig)
def lengths_are_ordered(sampling: SamplingConfig) -> Iterator[Conflict]:
    if sampling.min_length > sampling.max_new_tokens:
        yield Conflict(
            ("SamplingConfig.min_length", "SamplingConfig.max_new_tokens"),
            f"min_length {sampling.min_length} is more than max_new_tokens {sampling.max_new_tokens}.",
            f"Set min_length to {sampling.max_new_tokens} or less.",
            {"SamplingConfig.min_length": sampling.max_new_tokens},
            ({"SamplingConfig.max_new_tokens": sampling.min_length},),
        )


@rule(SamplingConfig)
def penalties_are_positive(sampling: SamplingConfig) -> Iterator[Conflict]:
    if sampling.repetition_penalty <= 0:
        yield Conflict(
            ("SamplingConfig.repetition_penalty",),
            f"repetition_penalty divides logits and must be above 0, and it is {sampling.repetition_penalty:g}.",
            "1 means no penalty.",
            {"SamplingConfig.repetition_penalty": 1.0},
        )
