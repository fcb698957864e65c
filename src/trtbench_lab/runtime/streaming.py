"""Text from tokens as they come, never cutting a character that several tokens make up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

# What a decoder writes for bytes that are no character (yet).
REPLACEMENT = "\ufffd"


class Decodes(Protocol):
    """The part of a tokenizer that is used here."""

    def decode(self, token_ids: list[int], **options: Any) -> str: ...


class TextStream:
    """Turns one row's tokens into pieces of text whose concatenation is the decoded whole.

    A piece is held back while the text ends in an incomplete character; `finish` gives what is left. Tokens are decoded
    together with the last piece's tokens, because a tokenizer may treat the first token of a text in its own way
    (SentencePiece drops its space).

    Parameters
    ----------
    tokenizer
        Anything with ``decode(ids, skip_special_tokens=, clean_up_tokenization_spaces=)``.
    prompt_ids
        Tokens before the stream, as context only.
    skip_special_tokens
        Leave out end and padding tokens.
    """

    def __init__(self, tokenizer: Decodes, prompt_ids: Iterable[int] = (), *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._options = {"skip_special_tokens": skip_special_tokens, "clean_up_tokenization_spaces": False}
        # A few tokens of context are enough to place a space; a character has at most 4 bytes.
        self._ids = list(prompt_ids)[-8:]
        self._shown_from = 0
        self._shown_to = len(self._ids)

    def put(self, token: int) -> str:
        """Add one token; returns the text that is now certain, possibly empty."""
        self._ids.append(token)
        shown, text = self._windows()
        if len(text) <= len(shown) or text.endswith(REPLACEMENT):
            return ""
        self._shown_from, self._shown_to = self._shown_to, len(self._ids)
        return text[len(shown) :]

    def finish(self) -> str:
        """Return what was held back, incomplete characters as U+FFFD."""
        shown, text = self._windows()
        self._shown_from, self._shown_to = self._shown_to, len(self._ids)
        return text[len(shown) :]

    def _windows(self) -> tuple[str, str]:
        """The text shown last, and that text with everything after it."""
        shown = self._decode(self._ids[self._shown_from : self._shown_to])
        return shown, self._decode(self._ids[self._shown_from :])

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, **self._options) if ids else ""


def stream_text(
    outputs: Iterable[dict[str, Any]],
    tokenizer: Decodes,
    *,
    row: int = 0,
    beam: int = 0,
    skip_special_tokens: bool = True,
) -> Iterator[str]:
    """Yield the text of one row of ``generate(streaming=True)`` in pieces as it comes.

    With beams the best beam may change its earlier tokens; text that was already yielded is not taken back, so stream
    text with one beam.
    """
    stream = TextStream(tokenizer, skip_special_tokens=skip_special_tokens)
    seen: int | None = None
    for output in outputs:
        start = output["input_lengths"][row] if seen is None else seen
        seen = int(output["sequence_lengths"][row, beam])
        for token in output["output_ids"][row, beam, start:seen].tolist():
            if piece := stream.put(token):
                yield piece
    if rest := stream.finish():
        yield rest
