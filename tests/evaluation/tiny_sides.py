"""A tiny engine that departs from Hugging Face by a known disturbance, and a tokenizer over the same vocabulary."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from tests.runtime.tiny_models import VOCAB_SIZE, tiny_llama, tiny_runner
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from trtbench_lab.runtime import HFRunner, ModelRunner


@functools.cache
def word_tokenizer() -> Any:
    """One token a word: w0 … w93, ``TL;DR:`` and an end token; 96 in all, like the tiny models."""
    from transformers import PreTrainedTokenizerFast

    vocabulary = {f"w{i}": i for i in range(VOCAB_SIZE - 2)} | {"TL;DR:": VOCAB_SIZE - 2, "<end>": VOCAB_SIZE - 1}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def equal_sides(**options: Any) -> tuple[ModelRunner, HFRunner]:
    """An engine and Hugging Face over the same weights."""
    model = tiny_llama()
    return tiny_runner(model, name="tiny engine", **options), HFRunner(model, name="tiny")


def disturbed_sides(scale: float = 0.3, **options: Any) -> tuple[ModelRunner, HFRunner]:
    """The engine's head carries noise: its logits differ, its hidden states do not."""
    model = tiny_llama()
    other = copy.deepcopy(model)
    noise = torch.randn(other.lm_head.weight.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        other.lm_head.weight += scale * noise * other.lm_head.weight.std()
    return tiny_runner(other, name="tiny engine", **options), HFRunner(model, name="tiny")


def words(*ids: int) -> str:
    """The text of these tokens."""
    return " ".join(f"w{i}" for i in ids)
