"""The keywords of `generate`, checked and settled: which rules choose tokens, what ends a row, what is returned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import RequestError, SpecError, did_you_mean
from ..specs import SamplingConfig
from .sampling import SamplingRules

WordsPerRow = tuple[tuple[tuple[int, ...], ...], ...]

# TensorRT-LLM's names for the same things.
ALIASES = {
    "stop_words_list": "stop_words",
    "bad_words_list": "bad_words",
    "max_output_len": "max_new_tokens",
    "min_new_tokens": "min_length",
    "seed": "random_seed",
    "output_generation_logits": "output_logits",
    "beam_width": "num_beams",
}
# Always done here, whatever is asked.
_ALWAYS = ("output_sequence_lengths", "output_cum_log_probs")
# Known to TensorRT-LLM's generate and without a counterpart in this runtime: refused unless neutral.
_WITHOUT_COUNTERPART = (
    "beam_search_diversity_rate",
    "encoder_input_features",
    "logits_processor",
    "lora_uids",
    "max_attention_window_size",
    "medusa_choices",
    "no_repeat_ngram_size",
    "num_return_sequences",
    "position_ids",
    "prompt_table",
    "prompt_tasks",
    "sink_token_length",
    "stopping_criteria",
    "top_p_decay",
    "top_p_min",
    "top_p_reset_ids",
)
OWN_KEYWORDS = ("truncation", "output_context_logits")


@dataclass(frozen=True)
class GenerationRequest:
    """One settled request.

    Attributes
    ----------
    config
        The sampling configuration after all keywords.
    rules
        How tokens are chosen.
    end_ids
        Tokens that end a row; empty: rows run to `config.max_new_tokens`.
    fill_id
        What pads `output_ids`.
    stop_words
        Per row, token sequences that end it.
    early_stopping
        For beams: True, False or ``"never"``.
    truncation
        What to do with a prompt that is too long: ``"error"``, or cut off its ``"left"`` or ``"right"`` end.
    output_context_logits
        Whether the logits of the prompts are returned.
    notes
        Sentences about options that have no effect in this request.
    """

    config: SamplingConfig
    rules: SamplingRules
    end_ids: tuple[int, ...] = ()
    fill_id: int = 0
    stop_words: WordsPerRow = ()
    early_stopping: bool | str = True
    truncation: str = "error"
    output_context_logits: bool = False
    notes: tuple[str, ...] = field(default=())

    @property
    def checks_stop_words(self) -> bool:
        """Whether any row has a stop word."""
        return any(self.stop_words)


def settle(
    sampling_config: SamplingConfig | None, keywords: Mapping[str, Any], *, num_prompts: int, vocab_size: int
) -> GenerationRequest:
    """Return the request that a configuration and the keywords over it mean for a batch of `num_prompts`.

    Raises
    ------
    RequestError
        For unknown keywords (with the nearest known one), wrong types and values out of range.
    """
    given = _renamed(keywords)
    _refuse_unknown(given)
    base = sampling_config if sampling_config is not None else SamplingConfig()
    if not isinstance(base, SamplingConfig):
        raise RequestError(
            f"sampling_config is a {type(base).__name__}.", where="sampling_config", remedy="Pass a SamplingConfig."
        )
    truncation = given.pop("truncation", "error")
    context_logits = bool(given.pop("output_context_logits", False))
    first, more = given.pop("end_id", base.end_id), given.pop("end_ids", base.end_ids)
    more = list(more) if isinstance(more, Iterable) else more
    end_ids = tuple(dict.fromkeys((*_end_ids(first, vocab_size), *_end_ids(more, vocab_size))))
    seeds = _seeds(given.pop("random_seed", base.random_seed), num_prompts)
    early_stopping = _early_stopping(given.pop("early_stopping", base.early_stopping))
    stop_words = _words(given.pop("stop_words", base.stop_words), "stop_words", num_prompts, vocab_size)
    bad_words = _words(given.pop("bad_words", base.bad_words), "bad_words", num_prompts, vocab_size)
    try:
        config = base.replace(
            **given,
            end_id=end_ids[0] if end_ids else None,
            end_ids=end_ids[1:],
            random_seed=seeds[0],
            early_stopping=early_stopping,
        )
    except SpecError as error:
        raise RequestError(error.what, where=error.where, remedy=error.remedy, details=error.details) from None
    if config.pad_id is not None and config.pad_id < 0:
        raise RequestError(f"pad_id {config.pad_id} is negative.", where="pad_id", remedy="Use a token id, or None.")
    if config.repetition_penalty <= 0:
        raise RequestError(
            f"A repetition penalty of {config.repetition_penalty:g} is not possible.",
            where="repetition_penalty",
            remedy="Use a positive number; 1.0 is neutral, 1.1 to 1.3 is usual.",
        )
    rules, notes = _rules(config, end_ids, bad_words, seeds)
    return GenerationRequest(
        config=config,
        rules=rules,
        end_ids=end_ids,
        fill_id=_fill_id(config, end_ids),
        stop_words=stop_words,
        early_stopping=early_stopping,
        truncation=truncation,
        output_context_logits=context_logits,
        notes=tuple(notes),
    )


def _renamed(keywords: Mapping[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, value in keywords.items():
        target = ALIASES.get(name, name)
        if target in given or (target != name and target in keywords):
            raise RequestError(f"{name} and {target} mean the same and both were given.", where=name)
        given[target] = value
    return given


def _refuse_unknown(given: dict[str, Any]) -> None:
    for name in list(given):
        if name in _ALWAYS:
            given.pop(name)
        elif name in _WITHOUT_COUNTERPART:
            value = given.pop(name)
            # Tensors and arrays are never neutral, and cannot be compared with a number to one truth.
            if hasattr(value, "tolist") or value not in (None, False, 0, 0.0, []):
                raise RequestError(
                    f"{name} is known from TensorRT-LLM and not offered by this runtime.",
                    where=name,
                    remedy="Leave it out.",
                )
        elif name not in SamplingConfig.field_names() and name not in OWN_KEYWORDS:
            known = [*SamplingConfig.field_names(), *OWN_KEYWORDS, *ALIASES]
            known += ["streaming", "return_dict", "sampling_config"]
            raise RequestError(f"generate has no keyword {name!r}.", where=name, remedy=did_you_mean(name, known))


def _rules(
    config: SamplingConfig, end_ids: tuple[int, ...], bad_words: WordsPerRow, seeds: tuple[int, ...]
) -> tuple[SamplingRules, list[str]]:
    """Apply TensorRT-LLM's meaning of top_k and top_p, and note what has no effect."""
    notes = []
    temperature = config.temperature
    top_k, top_p = config.top_k, config.top_p
    if config.num_beams > 1:
        greedy = True
        if temperature != 1.0 or top_k > 1 or top_p > 0:
            notes.append(
                "Beam search ranks the model's own log-probabilities: temperature, top_k and top_p do nothing."
            )
        temperature = 1.0
    else:
        # top_k 1, a temperature of 0, and "no top_k, no top_p" are greedy; top_p 0 beside a top_k means off.
        greedy = top_k == 1 or temperature == 0.0 or (top_k == 0 and top_p == 0.0)
        if greedy and temperature != 0.0 and (temperature != 1.0 or 0.0 < top_p < 1.0):
            notes.append(
                f"top_k={top_k} is greedy: temperature and top_p do nothing. To sample, use top_k=0 (all tokens) or 2 "
                "and more."
            )
        temperature = 1.0 if greedy else temperature
    if config.min_length and not end_ids:
        notes.append("min_length does nothing without an end_id: no row ends before max_new_tokens.")
    rules = SamplingRules(
        greedy=greedy,
        temperature=temperature,
        top_k=0 if greedy else top_k,
        top_p=1.0 if greedy or top_p == 0.0 else top_p,
        repetition_penalty=config.repetition_penalty,
        presence_penalty=config.presence_penalty,
        frequency_penalty=config.frequency_penalty,
        min_new_tokens=config.min_length,
        end_ids=end_ids,
        bad_words=bad_words,
        seeds=seeds,
    )
    return rules, notes


def _fill_id(config: SamplingConfig, end_ids: tuple[int, ...]) -> int:
    if config.pad_id is not None:
        return config.pad_id
    return end_ids[0] if end_ids else 0


def _end_ids(value: Any, vocab_size: int) -> tuple[int, ...]:
    if value is None or (isinstance(value, int) and value == -1):  # −1 is TensorRT-LLM's "no end token"
        return ()
    ids = _flat_integers(value, "end_id") if isinstance(value, list | tuple) else (_integer(value, "end_id"),)
    for token in ids:
        if not 0 <= token < vocab_size:
            raise RequestError(
                f"end_id {token} is outside the vocabulary (0 to {vocab_size - 1}).",
                where="end_id",
                remedy="Use the tokenizer's eos_token_id, or None to run to max_new_tokens.",
            )
    return ids


def _seeds(value: Any, num_prompts: int) -> tuple[int, ...]:
    """One seed for all rows, or a list with one a row."""
    if value is None:
        value = 0
    seeds = _flat_integers(value, "random_seed") if isinstance(value, list | tuple) else None
    if seeds is None:
        return (_seed(value),) * num_prompts
    if len(seeds) != num_prompts:
        raise RequestError(
            f"{len(seeds)} seeds were given for {num_prompts} prompts.",
            where="random_seed",
            remedy="Give one seed, or one a prompt.",
        )
    return tuple(_seed(seed) for seed in seeds)


def _seed(value: Any) -> int:
    seed = _integer(value, "random_seed")
    if not 0 <= seed < 2**63:
        raise RequestError(f"The seed {seed} is not between 0 and 2**63 − 1.", where="random_seed")
    return seed


def _early_stopping(value: Any) -> bool | str:
    """True or 1, False or 0, ``"never"`` or any other whole number (TensorRT-LLM's spelling of it)."""
    if value in (True, False):
        return bool(value)
    if value == "never" or (isinstance(value, int) and not isinstance(value, bool)):
        return "never"
    raise RequestError(f"early_stopping is {value!r}.", where="early_stopping", remedy="Use True, False or 'never'.")


def _words(value: Any, where: str, num_prompts: int, vocab_size: int) -> WordsPerRow:
    """Token sequences for all rows, or (one level deeper) a list of them a row."""
    if value is None or (isinstance(value, list | tuple) and not value):
        return ((),) * num_prompts
    nested = _plain(value)
    if not isinstance(nested, list) or _depth(nested) not in (2, 3):
        raise RequestError(
            f"{where} is {value!r}, not a list of token sequences.",
            where=where,
            remedy="Pass [[5, 7], [9]] for two words in every row, or a list of such lists, one a prompt; "
            "runtime.text.words_from_text makes them from text.",
        )
    rows = [nested] * num_prompts if _depth(nested) == 2 else nested
    if len(rows) != num_prompts:
        raise RequestError(
            f"{where} has lists for {len(rows)} rows and the batch has {num_prompts} prompts.",
            where=where,
            remedy="Give one list of words, or one a prompt.",
        )
    if any(row is not None and not isinstance(row, list) for row in rows):
        raise RequestError(f"{where} mixes lists of words with single numbers.", where=where)
    for word in (word for row in rows for word in row or ()):
        if not isinstance(word, list) or not word or any(isinstance(t, bool) or not isinstance(t, int) for t in word):
            raise RequestError(f"{where} holds {word!r}, not a sequence of token ids.", where=where)
        if min(word) < 0 or max(word) >= vocab_size:
            raise RequestError(
                f"{where} holds {word!r}: ids go from 0 to {vocab_size - 1}.",
                where=where,
                remedy="Encode words with the tokenizer of the engine's model.",
            )
    return tuple(tuple(tuple(word) for word in row or ()) for row in rows)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _depth(value: Any) -> int:
    if not isinstance(value, list):
        return 0
    return 1 + max((_depth(item) for item in value if item is not None), default=1)


def _flat_integers(values: Sequence[Any], where: str) -> tuple[int, ...]:
    return tuple(_integer(value, where) for value in values)


def _integer(value: Any, where: str) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise RequestError(f"{where} is {value!r}, not a whole number.", where=where)
    try:
        return int(value.__index__())
    except TypeError:
        raise RequestError(f"{where} is {value!r}, not a whole number.", where=where) from None
