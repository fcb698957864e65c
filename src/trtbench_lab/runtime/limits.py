"""What an engine takes, and the plain sentences for a request that is outside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..errors import RequestError

if TYPE_CHECKING:
    from ..specs import BuildConfig, ModelConfig

TRUNCATIONS = ("error", "left", "right")


@dataclass(frozen=True)
class EngineLimits:
    """The largest request that an engine takes.

    Attributes
    ----------
    max_batch_size, max_input_len, max_seq_len, max_beam_width
        As built: prompts a call, tokens a prompt, prompt plus new tokens, beams a prompt. None: not limited.
    vocab_size
        Token ids must be below it.
    """

    vocab_size: int
    max_batch_size: int | None = None
    max_input_len: int | None = None
    max_seq_len: int | None = None
    max_beam_width: int | None = None

    @classmethod
    def from_configs(cls, model: ModelConfig, build: BuildConfig) -> EngineLimits:
        """Read the limits of an engine folder's configuration."""
        return cls(
            vocab_size=model.vocab_size,
            max_batch_size=build.max_batch_size,
            max_input_len=build.max_input_len,
            max_seq_len=build.resolved_max_seq_len(model),
            max_beam_width=build.max_beam_width,
        )

    def fitted(self, prompts: list[list[int]], truncation: str, max_new_tokens: int) -> list[list[int]]:
        """Return the prompts with those that are too long treated as asked.

        Parameters
        ----------
        prompts
            Token ids.
        truncation
            For a prompt of more than ``max_input_len`` tokens: ``"error"``, or cut off its ``"left"`` or ``"right"``
            end. The latter two also make room for the new tokens below ``max_seq_len``.
        max_new_tokens
            That room.

        Raises
        ------
        RequestError
            For a prompt that is too long when that is an error, or when no prompt at all would fit.
        """
        if truncation not in TRUNCATIONS:
            raise RequestError(
                f"{truncation!r} is not a way to treat long prompts.",
                where="truncation",
                remedy=f"Choose one of {', '.join(TRUNCATIONS)}.",
            )
        room = self.prompt_room(max_new_tokens if truncation != "error" else 0)
        fitted = []
        for row, ids in enumerate(prompts):
            if room is not None and len(ids) > room:
                if truncation == "error" or room < 1:
                    raise RequestError(
                        f"The prompt has {len(ids)} tokens and the engine takes at most {max(room, 0)}"
                        + (f" beside {max_new_tokens} new ones." if truncation != "error" else "."),
                        where=f"batch_input_ids[{row}]",
                        remedy="Shorten it, pass truncation='left' (or 'right') to cut that end off, ask for fewer "
                        f"new tokens, or build with max_input_len={len(ids)}.",
                    )
                ids = ids[-room:] if truncation == "left" else ids[:room]
            fitted.append(ids)
        return fitted

    def prompt_room(self, max_new_tokens: int) -> int | None:
        """Tokens a prompt may have beside `max_new_tokens` new ones; None: no limit."""
        bounds = [self.max_input_len, None if self.max_seq_len is None else self.max_seq_len - max_new_tokens]
        known = [bound for bound in bounds if bound is not None]
        return min(known) if known else None

    def check_size(self, prompt_lengths: Sequence[int], max_new_tokens: int, num_beams: int) -> None:
        """Raise `RequestError` when batch, beams or lengths are more than the engine was built for."""
        if self.max_batch_size is not None and len(prompt_lengths) > self.max_batch_size:
            raise RequestError(
                f"The batch has {len(prompt_lengths)} prompts and the engine takes at most {self.max_batch_size}.",
                where="batch_input_ids",
                remedy=f"Send them in groups of {self.max_batch_size}, or build with "
                f"max_batch_size={len(prompt_lengths)}.",
            )
        if self.max_beam_width is not None and num_beams > self.max_beam_width:
            raise RequestError(
                f"{num_beams} beams were asked for and the engine takes at most {self.max_beam_width}.",
                where="num_beams",
                remedy=f"Ask for {self.max_beam_width} or fewer, or build with max_beam_width={num_beams}.",
            )
        if self.max_seq_len is None:
            return
        longest = max(range(len(prompt_lengths)), key=lambda row: prompt_lengths[row])
        total = prompt_lengths[longest] + max_new_tokens
        if total > self.max_seq_len:
            room = self.max_seq_len - prompt_lengths[longest]
            raise RequestError(
                f"Prompt {longest} has {prompt_lengths[longest]} tokens; with {max_new_tokens} new ones that is "
                f"{total}, and the engine's max_seq_len is {self.max_seq_len}.",
                where="max_new_tokens",
                remedy=(f"Ask for at most {room} new tokens" if room > 0 else "Shorten the prompt")
                + f", or build with max_seq_len={total} (if the model has that many positions).",
            )


def prompts_from_request(batch_input_ids: Any, vocab_size: int) -> list[list[int]]:
    """Return the prompts as lists of token ids.

    Parameters
    ----------
    batch_input_ids
        A list of 1-D integer tensors, arrays or lists (lengths may differ), or one 2-D integer tensor.
    vocab_size
        Ids must be below it.

    Raises
    ------
    RequestError
        For an empty batch or prompt, a wrong type, or an id outside the vocabulary.
    """
    prompts = [_token_list(row, f"batch_input_ids[{i}]") for i, row in enumerate(_rows(batch_input_ids))]
    if not prompts:
        raise RequestError("The batch holds no prompt.", where="batch_input_ids", remedy="Pass at least one prompt.")
    for row, ids in enumerate(prompts):
        _check_ids(ids, vocab_size, f"batch_input_ids[{row}]")
    return prompts


def _rows(batch_input_ids: Any) -> list[Any]:
    if isinstance(batch_input_ids, str) or (
        isinstance(batch_input_ids, list | tuple) and any(isinstance(row, str) for row in batch_input_ids)
    ):
        raise RequestError(
            "The prompts are text, and generate takes token ids.",
            where="batch_input_ids",
            remedy="Encode them first, for example with runtime.text.encode_prompts(tokenizer, texts).",
        )
    if isinstance(batch_input_ids, list | tuple):
        if batch_input_ids and all(isinstance(row, int) for row in batch_input_ids):
            raise RequestError(
                "batch_input_ids is one flat list of ids.",
                where="batch_input_ids",
                remedy="Pass a list of prompts: [[…]] for one prompt.",
            )
        return list(batch_input_ids)
    if getattr(batch_input_ids, "ndim", None) == 2:
        return list(batch_input_ids)
    raise RequestError(
        f"batch_input_ids is a {type(batch_input_ids).__name__}"
        + (f" of {batch_input_ids.ndim} dimension(s)" if hasattr(batch_input_ids, "ndim") else "")
        + ".",
        where="batch_input_ids",
        remedy="Pass a list of 1-D integer tensors (or lists), one a prompt, or one 2-D integer tensor.",
    )


def _token_list(row: Any, where: str) -> list[int]:
    if hasattr(row, "tolist"):  # torch, NumPy
        if row.ndim != 1:
            raise RequestError(
                f"The prompt has {row.ndim} dimensions.", where=where, remedy="Pass a 1-D tensor of token ids."
            )
        integral = (
            not (row.is_floating_point() or row.dtype == torch.bool)
            if torch.is_tensor(row)
            else (row.dtype.kind in "iu")
        )
        if row.shape[0] and not integral:
            raise RequestError(
                f"The prompt's elements are {row.dtype}, not integers.", where=where, remedy="Pass token ids."
            )
        return [int(token) for token in row.tolist()]
    if not isinstance(row, list | tuple):
        raise RequestError(
            f"The prompt is a {type(row).__name__}.", where=where, remedy="Pass a list or 1-D tensor of token ids."
        )
    for position, token in enumerate(row):
        if isinstance(token, bool) or (not isinstance(token, int) and not _is_integer_scalar(token)):
            raise RequestError(
                f"Element {position} is {token!r}, not a token id.", where=where, remedy="Pass whole numbers."
            )
    return [int(token) for token in row]


def _is_integer_scalar(token: Any) -> bool:
    """NumPy and 0-d torch integers."""
    if torch.is_tensor(token):
        return token.ndim == 0 and not token.is_floating_point() and token.dtype != torch.bool
    return getattr(getattr(token, "dtype", None), "kind", "") in ("i", "u")


def _check_ids(ids: list[int], vocab_size: int, where: str) -> None:
    if not ids:
        raise RequestError(
            "The prompt is empty.",
            where=where,
            remedy="Pass at least one token; a tokenizer that adds none needs a non-empty text.",
        )
    if min(ids) < 0 or max(ids) >= vocab_size:
        position, token = next((i, t) for i, t in enumerate(ids) if not 0 <= t < vocab_size)
        raise RequestError(
            f"Token id {token} at position {position} is outside the vocabulary (0 to {vocab_size - 1}).",
            where=where,
            remedy="Use the tokenizer of the model that the engine was built from.",
        )
