"""One request inside the batcher: its tokens, its rules, and what the scheduler must remember while it does not run."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..request import GenerationRequest

WAITING, RUNNING, FINISHED = "waiting", "running", "finished"
END_ID, STOP_WORDS, LENGTH, CANCELLED, FAILED = "end_id", "stop_words", "length", "cancelled", "error"


@dataclass(eq=False)
class Sequence:
    """A prompt and what was generated after it.

    Attributes
    ----------
    number
        Order of arrival; also the name shown to people.
    prompt
        (L,) int32 token ids.
    request
        Its settled sampling.
    streams
        Whether its tokens are handed on as they come, rather than at its end.
    state, finish_reason, error
        Where it stands; why it ended; what went wrong.
    generated, token_ns, log_probs
        What is known of its output while it does not run; `rows.Rows` holds the first two while it does.
    pending
        Tokens chosen on the device whose step's ticket is not read yet.
    blocks, digests, num_named
        Its cache blocks in order; names of its full blocks as far as computed; how many blocks carry their names.
    slot
        Its place in the running batch; −1: none.
    prefill_length
        Tokens to take in before the next one is chosen: the prompt, and after a preemption what was generated too.
    preemptions, reused_tokens
        How often it was put off, and prompt tokens whose cache was found.
    """

    number: int
    prompt: np.ndarray
    request: GenerationRequest
    streams: bool = False
    state: str = WAITING
    finish_reason: str | None = None
    error: Exception | None = None
    generated: list[int] = field(default_factory=list)
    token_ns: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    pending: int = 0
    blocks: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    num_named: int = 0
    slot: int = -1
    prefill_length: int = 0
    preemptions: int = 0
    reused_tokens: int = 0

    @property
    def max_new_tokens(self) -> int:
        """Most tokens it may generate."""
        return self.request.config.max_new_tokens

    @property
    def stop_words(self) -> tuple[tuple[int, ...], ...]:
        """Token sequences that end it."""
        return self.request.stop_words[0] if self.request.stop_words else ()

    @property
    def bad_words(self) -> tuple[tuple[int, ...], ...]:
        """Token sequences that it must not produce."""
        return self.request.rules.bad_words[0] if self.request.rules.bad_words else ()

    @property
    def waits_for_tokens(self) -> bool:
        """Whether its next token can only be chosen once the last one is known on the host: bans that follow words."""
        return any(len(word) > 1 for word in self.bad_words)

    @property
    def is_plain(self) -> bool:
        """Whether it takes the largest raw logit and wants nothing else."""
        rules = self.request.rules
        return rules.greedy and not rules.changes_logits and not self.request.config.output_log_probs

    def ends_with_stop_word(self, generated: np.ndarray) -> bool:
        """Whether `generated` ends in one of its stop words."""
        count = len(generated)
        return any(
            len(word) <= count and tuple(generated[count - len(word) :].tolist()) == word for word in self.stop_words
        )
