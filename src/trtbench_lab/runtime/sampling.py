"""From logits to the next tokens: penalties, bans, temperature, top-k, top-p, and the draw; each a function of its own.

The order is repetition penalty → bad words → minimum length → temperature → presence and frequency penalties → top-k →
top-p. Where Hugging Face has the same step, the numbers are the same as its logits processors give; presence and
frequency penalties, which it has not, are subtracted after the temperature and count prompt and new tokens, as in
TensorRT-LLM.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

MINUS_INFINITY = float("-inf")
# Seeds of torch.Generator are 64-bit; TensorRT-LLM's default seed is 0, so that a run repeats unless asked otherwise.
DEFAULT_SEED = 0


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Run the body's CPU work on one thread of torch; nothing changes on a GPU.

    Choosing a token is small work that torch would spread over all cores from 32,768 logits on. The threads it wakes
    go on spinning where the engine's own threads need the cores, and on a busy machine waiting for them costs
    milliseconds: 5 ms a token were measured. Switching costs under 1 µs; the draws are the same.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def penalize_repetition(logits: torch.Tensor, counts: torch.Tensor, penalty: float) -> torch.Tensor:
    """Divide the positive logits of tokens that occurred by `penalty`, multiply the negative ones.

    Parameters
    ----------
    logits
        (B, V).
    counts
        (B, V), how often each token occurred in prompt and output.
    """
    return torch.where(counts > 0, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def penalize_presence_and_frequency(
    logits: torch.Tensor, counts: torch.Tensor, presence: float, frequency: float
) -> torch.Tensor:
    """Subtract `presence` from tokens that occurred, and `frequency` for each time they did."""
    return logits - presence * (counts > 0) - frequency * counts


def keep_top_k(logits: torch.Tensor, top_k: int) -> torch.Tensor:
    """Keep each row's `top_k` largest logits (and those equal to the smallest of them), the rest to −infinity."""
    if top_k >= logits.shape[-1]:
        return logits
    if logits.device.type == "cpu":
        # NumPy's selection takes a third of topk's time over 50,257 logits, and its masking an eighth.
        rows = logits.numpy()
        place = rows.shape[-1] - top_k
        smallest = np.partition(rows, place, axis=-1)[:, place : place + 1]
        return torch.from_numpy(np.where(rows < smallest, np.float32(MINUS_INFINITY), rows))
    smallest_kept = logits.topk(top_k, dim=-1).values[:, -1:]
    return logits.masked_fill(logits < smallest_kept, MINUS_INFINITY)


def keep_top_p(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep the smallest set of most likely tokens whose probability reaches `top_p`; at least one token a row."""
    if logits.device.type == "cpu":
        return torch.cat([_kept_of_row(row, top_p) for row in logits.split(1)])
    return _kept_on_device(logits, top_p)


def _kept_on_device(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """The same without a question to the device: of equal logits at the cut, the sort's order says which stay."""
    ascending, order = logits.sort(dim=-1)
    dropped = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
    dropped[:, -1] = False
    return logits.masked_fill(torch.zeros_like(dropped).scatter(-1, order, dropped), MINUS_INFINITY)


def _kept_of_row(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """The same for one row (1, V) on the CPU: NumPy sorts 50,257 logits in 0.25 ms where torch takes 4.5."""
    row = logits.numpy()
    ascending = np.sort(row, axis=-1)
    cumulative = torch.from_numpy(ascending).softmax(dim=-1).cumsum(dim=-1).numpy()[0]
    # The sums never fall, so those up to 1 - top_p are a beginning of them.
    num_dropped = min(int(np.searchsorted(cumulative, np.float32(1 - top_p), side="right")), len(cumulative) - 1)
    drops = row < ascending[0, num_dropped]
    if np.count_nonzero(drops) != num_dropped:
        order = logits.sort(dim=-1).indices.numpy()[0]
        drops = np.zeros_like(drops)
        drops[0, order[:num_dropped]] = True
    return torch.from_numpy(np.where(drops, row.dtype.type(MINUS_INFINITY), row))


def ban_words(
    logits: torch.Tensor, sequences: Sequence[Sequence[int]], words: Sequence[Sequence[Sequence[int]]]
) -> torch.Tensor:
    """Set the last token of each banned word to −infinity in the rows that end with all of the word before it.

    Parameters
    ----------
    logits
        (B, V).
    sequences
        Per row, prompt and new tokens so far.
    words
        Per row, the banned words as token ids.
    """
    banned = logits.clone()
    for row, (sequence, row_words) in enumerate(zip(sequences, words, strict=True)):
        for word in row_words:
            start = len(word) - 1
            if start == 0 or (start <= len(sequence) and list(sequence[-start:]) == list(word[:-1])):
                banned[row, word[-1]] = MINUS_INFINITY
    return banned


def count_tokens(sequences: Sequence[Sequence[int]], vocab_size: int, device: torch.device) -> torch.Tensor:
    """Return how often each token occurs in each sequence: (B, V) int32."""
    counts = torch.zeros(len(sequences), vocab_size, dtype=torch.int32)
    for row, sequence in enumerate(sequences):
        counts[row] = torch.bincount(torch.tensor(sequence), minlength=vocab_size)
    return counts.to(device)


def largest(logits: torch.Tensor) -> torch.Tensor:
    """Return the index of each row's largest logit: (B,) int64.

    On the CPU by NumPy: over 50,257 logits it takes 4 µs where torch takes 50 to 120, and it leaves torch's threads
    asleep, which would go on spinning on the cores that the engine's next step needs.
    """
    if logits.device.type == "cpu":
        return torch.from_numpy(logits.numpy().argmax(axis=-1))
    return logits.argmax(dim=-1)


@dataclass(frozen=True)
class SamplingRules:
    """How tokens are chosen, every default settled; made by `request.settle`.

    Attributes
    ----------
    greedy
        Take the largest processed logit; no draw, no top-k, no top-p.
    temperature, top_k, top_p
        ``top_k`` 0 and ``top_p`` 1.0 mean: all tokens.
    repetition_penalty, presence_penalty, frequency_penalty
        1.0, 0.0 and 0.0 are neutral.
    min_new_tokens
        Steps in which no end token may be chosen.
    end_ids
        Tokens that end a row.
    bad_words
        Per row, token sequences that must not appear.
    seeds
        One seed a row.
    """

    greedy: bool = True
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_new_tokens: int = 0
    end_ids: tuple[int, ...] = ()
    bad_words: tuple[tuple[tuple[int, ...], ...], ...] = ()
    seeds: tuple[int, ...] = field(default=(DEFAULT_SEED,))

    @property
    def counts_tokens(self) -> bool:
        """Whether a penalty needs to know which tokens occurred."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    @property
    def changes_logits(self) -> bool:
        """Whether a greedy choice could differ from the largest raw logit."""
        return self.counts_tokens or bool(self.end_ids and self.min_new_tokens) or any(self.bad_words)


class LogitsPipeline:
    """Applies the rules to a batch's logits, keeping what the penalties must remember from step to step.

    Parameters
    ----------
    rules
        What to apply.
    prompts
        Token ids of each row.
    vocab_size
        Columns of the logits.
    device
        Where the logits live.
    """

    def __init__(
        self, rules: SamplingRules, prompts: Sequence[Sequence[int]], vocab_size: int, device: torch.device
    ) -> None:
        self.rules = rules
        self.new_tokens = 0
        self._bad_words = rules.bad_words if any(rules.bad_words) else ()
        self._sequences = [list(prompt) for prompt in prompts] if self._bad_words else []
        self._counts = count_tokens(prompts, vocab_size, device) if rules.counts_tokens else None
        # On the device once: a list of indices would be sent, and waited for, in every step.
        self._end_ids = torch.tensor(rules.end_ids, dtype=torch.int64).to(device)

    def process(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, V) after penalties, bans and temperature, before top-k and top-p."""
        rules = self.rules
        if self._counts is not None and rules.repetition_penalty != 1.0:
            logits = penalize_repetition(logits, self._counts, rules.repetition_penalty)
        if self._bad_words:
            logits = ban_words(logits, self._sequences, self._bad_words)
        if rules.end_ids and self.new_tokens < rules.min_new_tokens:
            logits = logits.index_fill(1, self._end_ids, MINUS_INFINITY)
        if rules.temperature != 1.0:
            logits = logits / rules.temperature
        if self._counts is not None and (rules.presence_penalty or rules.frequency_penalty):
            logits = penalize_presence_and_frequency(
                logits, self._counts, rules.presence_penalty, rules.frequency_penalty
            )
        return logits

    def filter(self, logits: torch.Tensor) -> torch.Tensor:
        """Return processed logits with all but the top-k and top-p tokens at −infinity."""
        if self.rules.top_k > 0:
            logits = keep_top_k(logits, self.rules.top_k)
        if self.rules.top_p < 1.0:
            logits = keep_top_p(logits, self.rules.top_p)
        return logits

    def append(self, tokens: torch.Tensor, token_list: Sequence[int]) -> None:
        """Remember one more token a row; the same tokens as a tensor (B,) and as a list."""
        self.new_tokens += 1
        if self._counts is not None:
            ones = torch.ones_like(tokens, dtype=self._counts.dtype)[:, None]
            self._counts.scatter_add_(1, tokens[:, None], ones)
        if self._bad_words:
            for sequence, token in zip(self._sequences, token_list, strict=True):
                sequence.append(token)

    def take_rows(self, parents: Sequence[int]) -> None:
        """Let row i continue what row ``parents[i]`` remembers (beam search)."""
        if self._counts is not None:
            self._counts = self._counts[list(parents)]
        if self._bad_words:
            self._sequences = [list(self._sequences[parent]) for parent in parents]


class RowSampler:
    """Draws one token a row, each row from a generator of its own.

    A row's draws depend on its seed and its logits alone, never on its place in the batch or on its neighbours: rows
    with equal prompts and equal seeds give equal tokens. With one row they are also the draws that
    ``torch.manual_seed(seed)`` followed by Hugging Face's ``generate(do_sample=True)`` makes.

    A draw is a race: token i arrives at time e_i / p_i, with e_i exponential, and the first to arrive wins with
    probability p_i. ``torch.multinomial`` runs this race among all tokens; here, on a CPU, times are only worked out
    for the few that can win, from the same random numbers. On a GPU the race is run here too, since
    ``torch.multinomial`` may ask the device whether the probabilities are sound, and wait for the answer.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self._generators = [torch.Generator(device=device).manual_seed(seed) for seed in seeds]
        self._on_cpu = device.type == "cpu"
        self._races = self._on_cpu and _uniforms_make_exponentials()

    def draw(self, logits: torch.Tensor) -> torch.Tensor:
        """Return (B,) int64 tokens drawn from softmax(logits)."""
        probabilities = logits.softmax(dim=-1)
        if self._races:
            drawn = [_race(row, generator) for row, generator in zip(probabilities, self._generators, strict=True)]
            return torch.tensor(drawn)
        if not self._on_cpu:
            return _race_on_device(probabilities, self._generators)
        return torch.cat(
            [
                torch.multinomial(probabilities[row : row + 1], 1, generator=generator)
                for row, generator in enumerate(self._generators)
            ]
        ).squeeze(1)


def _race_on_device(probabilities: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Draw from (B, V) probabilities, each row with its generator: ``torch.multinomial``'s draws without its checks."""
    times = torch.cat(
        [
            torch.empty_like(probabilities[row : row + 1]).exponential_(1.0, generator=generator)
            for row, generator in enumerate(generators)
        ]
    )
    return (probabilities / times).argmax(dim=-1)


def _race(probabilities: torch.Tensor, generator: torch.Generator) -> int:
    """Draw from (V,) probabilities as ``torch.multinomial`` does, in a quarter of its time over 50,257 of them."""
    # One uniform a token whether it can win or not, so that the generator moves on as torch's does.
    uniform = torch.rand(len(probabilities), dtype=torch.float64, generator=generator).numpy()
    chances = probabilities.numpy()
    with np.errstate(divide="ignore", invalid="ignore"):  # a time of 0 wins, as it does in torch
        # A token's time is at least its uniform, so chance / uniform bounds how well it can do: logarithms are only
        # taken of the few that may beat the one of the highest bound.
        bounds = chances / uniform
        best = int(bounds.argmax())
        reached = chances[best] / np.float32(-np.log1p(-uniform[best]))
        runners = np.flatnonzero(bounds >= reached * (1 - 1e-5))
        if not len(runners):  # 0 / 0 at the highest bound
            runners = np.flatnonzero(chances)
        times = (-np.log1p(-uniform[runners])).astype(np.float32)
        return int(runners[(chances[runners] / times).argmax()])


@functools.cache
def _uniforms_make_exponentials() -> bool:
    """Whether this torch makes its exponential numbers of one float64 uniform each, which `_race` counts on.

    Its builds with another vector library draw them in another way; ``torch.multinomial`` is used there.
    """
    count, ours, torchs = 64, torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    uniform = torch.rand(count, dtype=torch.float64, generator=ours)
    expected = torch.empty(count).exponential_(1.0, generator=torchs)
    same_state = bool(torch.equal(ours.get_state(), torchs.get_state()))
    return same_state and bool(torch.allclose(-torch.log1p(-uniform).float(), expected, rtol=1e-6, atol=0.0))
