"""Sampling of one request from what people write: a configuration, or a table with the field's many names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import RequestError, did_you_mean
from ...specs import SamplingConfig
from ..request import ALIASES, OWN_KEYWORDS
from ..text import end_and_pad_id, words_from_text

# Names of vLLM's and TensorRT-LLM's SamplingParams, and of OpenAI's requests, for the same things.
_SYNONYMS = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "min_tokens": "min_length",
    "stop": "stop_words",
    "bad": "bad_words",
    "stop_token_ids": "end_id",
    "eos_token_id": "end_id",
    "logprobs": "output_log_probs",
    "return_log_probs": "output_log_probs",
}
_WORDS = ("stop_words", "bad_words")


def sampling_of(params: Any, tokenizer: Any = None, *, where: str = "sampling_params") -> dict[str, Any]:
    """Return the keywords of `InflightBatcher.submit` that `params` mean.

    Parameters
    ----------
    params
        A `SamplingConfig`, a table of its fields (or of other tools' names for them), or None for greedy. In a table
        stop and bad words may be texts.
    tokenizer
        Gives the end token where none is named, and turns texts of words into tokens.
    where
        Named in errors.

    Raises
    ------
    RequestError
        For an unknown name (with the nearest known one), or words as text without a tokenizer.
    """
    if params is None or isinstance(params, SamplingConfig):
        config = params if params is not None else SamplingConfig()
        keywords: dict[str, Any] = {"sampling_config": config}
        ends_itself = config.end_id is not None
    elif isinstance(params, Mapping):
        keywords = _renamed(params, where)
        ignores_end = keywords.pop("ignore_eos", False)
        if ignores_end:
            keywords["end_id"] = None
        ends_itself = "end_id" in keywords
        for name in _WORDS:
            if name in keywords:
                keywords[name] = _words(keywords[name], name, tokenizer, where)
        if isinstance(keywords.get("output_log_probs"), int):
            keywords["output_log_probs"] = bool(keywords["output_log_probs"])
    else:
        raise RequestError(
            f"{where} is a {type(params).__name__}.", where=where, remedy="Pass a SamplingConfig, a dict, or None."
        )
    if not ends_itself and tokenizer is not None:
        keywords["end_id"], _ = end_and_pad_id(tokenizer)
    return keywords


def _renamed(params: Mapping[str, Any], where: str) -> dict[str, Any]:
    known = [*SamplingConfig.field_names(), *OWN_KEYWORDS, *ALIASES, *_SYNONYMS, "ignore_eos", "n"]
    keywords: dict[str, Any] = {}
    for name, value in params.items():
        if name not in known:
            raise RequestError(f"There is no sampling field {name!r}.", where=where, remedy=did_you_mean(name, known))
        if name == "n":
            if value != 1:
                raise RequestError(
                    f"n is {value!r}: a request gives one output.", where=where, remedy="Send it that many times."
                )
            continue
        target = _SYNONYMS.get(name, ALIASES.get(name, name))
        if target in keywords:
            raise RequestError(f"{name} says again what {target} says.", where=where, remedy="Give one of them.")
        keywords[target] = value
    return keywords


def _words(value: Any, name: str, tokenizer: Any, where: str) -> Any:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not any(isinstance(word, str) for word in words):
        return value
    if not all(isinstance(word, str) for word in words):
        raise RequestError(f"{name} mixes texts and token ids.", where=where, remedy="Write all of them as texts.")
    if tokenizer is None:
        raise RequestError(
            f"{name} are texts, and there is no tokenizer.", where=where, remedy="Give a tokenizer, or token ids."
        )
    return words_from_text(tokenizer, words)
