"""Between text and token ids: prompts in, outputs out, and words to stop at or to avoid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import RequestError


def encode_prompts(tokenizer: Any, texts: Sequence[str], *, add_special_tokens: bool = True) -> list[list[int]]:
    """Return the token ids of each text.

    Parameters
    ----------
    tokenizer
        A Hugging Face tokenizer.
    texts
        Prompts.
    add_special_tokens
        Whether the tokenizer adds its begin token and the like.

    Raises
    ------
    RequestError
        For something that is no text, or a text that gives no token.
    """
    if isinstance(texts, str):
        raise RequestError("The prompts are one text, not a list.", where="prompts", remedy="Pass [text].")
    prompts = []
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise RequestError(f"The prompt is a {type(text).__name__}, not text.", where=f"prompts[{i}]")
        ids = tokenizer.encode(text, add_special_tokens=add_special_tokens)
        if not ids:
            raise RequestError(
                "The prompt is empty: the tokenizer made no token of it.",
                where=f"prompts[{i}]",
                remedy="Write at least one character.",
            )
        prompts.append(list(ids))
    return prompts


def new_tokens_of(outputs: Mapping[str, Any], row: int, beam: int = 0, *, with_end: bool = False) -> list[int]:
    """Return one row's generated tokens without prompt and padding, and its end token only if asked."""
    start = int(outputs["input_lengths"][row])
    end = int(outputs["sequence_lengths"][row, beam])
    end += with_end and outputs["finish_reasons"][row][beam] == "end_id"
    tokens: list[int] = outputs["output_ids"][row, beam, start:end].tolist()
    return tokens


def decode_outputs(tokenizer: Any, outputs: Mapping[str, Any], *, skip_special_tokens: bool = True) -> list[list[str]]:
    """Return the generated text of every row and beam, ``[row][beam]``, of what `generate` returned."""
    rows, beams = outputs["sequence_lengths"].shape
    return [
        [
            tokenizer.decode(new_tokens_of(outputs, row, beam), skip_special_tokens=skip_special_tokens)
            for beam in range(beams)
        ]
        for row in range(rows)
    ]


def words_from_text(tokenizer: Any, words: Sequence[str]) -> list[list[int]]:
    """Return each word's token ids, for ``stop_words`` and ``bad_words``.

    A word within a text is often another token than the same word at its start: give ``" word"`` with its space where
    that is meant.
    """
    if isinstance(words, str):
        words = [words]
    encoded = [list(tokenizer.encode(word, add_special_tokens=False)) for word in words]
    for word, ids in zip(words, encoded, strict=True):
        if not ids:
            raise RequestError(f"The tokenizer makes no token of the word {word!r}.", where="words")
    return encoded


def end_and_pad_id(tokenizer: Any) -> tuple[int | None, int | None]:
    """Return the tokenizer's end and padding token; padding falls back to the end token, which many models lack."""
    end_id = tokenizer.eos_token_id
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end_id
    return end_id, pad_id
