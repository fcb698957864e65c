"""How the next token is chosen and when generation ends."""

from __future__ import annotations

from .coerce import FALSE_WORDS, TRUE_WORDS, Unfit
from .options import option
from .spec import Spec


def _early_stopping(text: str) -> bool | str:
    word = text.strip().lower()
    if word == "never" or word in TRUE_WORDS | FALSE_WORDS:
        return "never" if word == "never" else word in TRUE_WORDS
    raise Unfit(f"must be true, false or never, not {text!r}")


class SamplingConfig(Spec):
    """Choice of tokens for one request; the defaults are greedy."""

    max_new_tokens: int = option(
        default=100,
        help="Most tokens to generate.",
        minimum=1,
        unit="tokens",
        flags=("--max_output_len", "--output_len", "--max_output_length", "--max_tokens"),
        group="length",
    )
    min_length: int = option(
        default=0,
        help="Tokens to generate before the end token is allowed.",
        minimum=0,
        unit="tokens",
        flags=("--min_new_tokens",),
        group="length",
    )
    end_id: int | None = option(
        default=None, help="Token that ends a sequence; none means the tokenizer's.", group="length"
    )
    end_ids: tuple[int, ...] = option(
        default=(),
        help="More tokens that end a sequence, beside end_id.",
        minimum=0,
        nargs="+",
        flags=("--stop_token_ids",),
        metavar="ID",
        group="length",
    )
    pad_id: int | None = option(
        default=None, help="Token that fills a finished row; none means the tokenizer's.", group="length"
    )
    temperature: float = option(
        default=1.0,
        help="Divides the logits; 0 means greedy.",
        minimum=0,
        group="sampling",
        effect="Below 1 more certain, above 1 more varied.",
    )
    top_k: int = option(
        default=1,
        help="Choose among this many most likely tokens; 1 is greedy, 0 means all.",
        minimum=0,
        group="sampling",
    )
    top_p: float = option(
        default=0.0,
        help="Choose among the most likely tokens that reach this probability together; 0 means off.",
        minimum=0,
        maximum=1,
        group="sampling",
    )
    random_seed: int = option(
        default=0, help="Seed of the random choice.", minimum=0, flags=("--seed",), group="sampling"
    )
    num_beams: int = option(
        default=1, help="Beams of beam search; 1 means none.", minimum=1, flags=("--beam_width",), group="beams"
    )
    length_penalty: float = option(
        default=1.0, help="Exponent of the length by which a beam's score is divided.", group="beams"
    )
    early_stopping: bool | str = option(
        default=True,
        help="End beam search as soon as enough beams have ended; false: when no better one is likely; never: when "
        "none is possible.",
        choices=(True, False, "never"),
        parse=_early_stopping,
        render=lambda value: str(value).lower(),
        bare=True,
        group="beams",
    )
    repetition_penalty: float = option(
        default=1.0, help="Divides the logits of tokens seen before (multiplies negative ones).", group="penalties"
    )
    presence_penalty: float = option(
        default=0.0, help="Subtracted once from the logits of tokens seen before.", group="penalties"
    )
    frequency_penalty: float = option(
        default=0.0,
        help="Subtracted from a token's logit as often as it occurred, the prompt included.",
        group="penalties",
    )
    stop_words: tuple[tuple[int, ...], ...] = option(
        default=(), help="Token sequences that end generation.", command_line=False, group="length"
    )
    bad_words: tuple[tuple[int, ...], ...] = option(
        default=(), help="Token sequences that are never generated.", command_line=False, group="sampling"
    )
    output_log_probs: bool = option(default=False, help="Return each token's log-probability.", group="output")
    output_logits: bool = option(
        default=False,
        help="Return the logits of every generated token.",
        flags=("--output_generation_logits",),
        group="output",
        effect="vocab_size × 4 bytes a token.",
    )

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.num_beams == 1 and (self.top_k == 1 or self.temperature == 0.0)
