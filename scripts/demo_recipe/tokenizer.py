"""The demo tokenizer: byte-level BPE of 4,096 pieces, trained on the train split alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from trtbench_lab.demo.corpus import make_prose, make_record

END_OF_TEXT = "<|endoftext|>"
PROMPT_ENDING = " TL;DR: "
VOCAB_SIZE = 4096  # divisible by 8, so that a tensor-parallel embedding needs no padding
MAX_POSITIONS = 1024
NUM_TEXTS = 20_000
"""Enough texts that every template word is seen; coined names stay several pieces long."""


def tokenizer_texts(seed: int, num_texts: int) -> Iterator[str]:
    """Yield the texts the tokenizer learns from: articles as prompts, highlights, and some prose."""
    for index in range(num_texts):
        record = make_record("train", index, seed=seed)
        yield record["article"] + PROMPT_ENDING
        yield record["highlights"]
        if index % 5 == 0:
            yield make_prose("train", index, seed=seed)


def train_tokenizer(folder: Path, *, seed: int, num_texts: int = NUM_TEXTS) -> PreTrainedTokenizerFast:
    """Train the tokenizer and write `tokenizer.json` and `tokenizer_config.json` into `folder`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(tokenizer_texts(seed, num_texts), trainer)
    if bpe.get_vocab_size() != VOCAB_SIZE:
        raise ValueError(
            f"The tokenizer has {bpe.get_vocab_size()} pieces instead of {VOCAB_SIZE}: "
            f"{num_texts} texts hold too few pairs. Use more texts."
        )
    # PreTrainedTokenizerFast reads tokenizer.json as it is; a GPT-2 or LLaMA tokenizer class would rebuild its own
    # pipeline around the vocabulary.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    # Newer releases of transformers write a class name that older ones do not know; both know this one.
    settings = folder / "tokenizer_config.json"
    table = json.loads(settings.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8", newline="\n")
    return tokenizer
