"""Beam search over a batch: the running beams, the finished ones, and when no better one can come.

The search is the one that Hugging Face's ``generate(num_beams=…)`` performs, down to its conventions:

- a running beam's score is the sum of its tokens' (processed) log-probabilities; a finished hypothesis' score is that
  sum over ``length ** length_penalty``, the length being its new tokens with the end token;
- each step takes the best ``max(2, 1 + end tokens) · beams`` continuations of a prompt; only those among the first
  ``beams`` of them may finish, the others stand in for running beams that did;
- ``early_stopping``: True ends a prompt when it has ``beams`` hypotheses; False when its best running beam, at its
  present length, no longer beats the worst of them; ``"never"`` when it could not even at the longest length.

Prompts of a batch do not influence each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

# Stands for "impossible" in sums of float32 log-probabilities; an infinity would make 0 × ∞ and ∞ − ∞ along the way.
IMPOSSIBLE = -1.0e9


@dataclass(frozen=True)
class BeamResult:
    """The best hypotheses of every prompt, best first.

    Attributes
    ----------
    tokens
        ``tokens[prompt][beam]``: new tokens, the end token included where there is one.
    scores
        (P, W) float32: log-probability over ``length ** length_penalty``.
    origins
        ``origins[prompt][beam]``: for each token the row (prompt · W + beam) of the step that made it.
    """

    tokens: list[list[list[int]]]
    scores: torch.Tensor
    origins: list[list[list[int]]]


class BeamSearch:
    """State of a search for P prompts with W beams; feed it log-probabilities until `done`.

    Parameters
    ----------
    num_prompts, num_beams
        P and W.
    max_new_tokens
        Longest hypothesis.
    end_ids
        Tokens that finish a hypothesis.
    length_penalty, early_stopping
        See the module.
    stops
        Called with a prompt's index and a hypothesis' new tokens; True finishes it (stop words). None: only end tokens.
    """

    def __init__(
        self,
        num_prompts: int,
        num_beams: int,
        max_new_tokens: int,
        *,
        end_ids: Sequence[int] = (),
        length_penalty: float = 1.0,
        early_stopping: bool | str = False,
        stops: Callable[[int, list[int]], bool] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.num_prompts, self.num_beams, self.max_new_tokens = num_prompts, num_beams, max_new_tokens
        self.length_penalty, self.early_stopping = length_penalty, early_stopping
        self.candidates = max(2, 1 + len(end_ids)) * num_beams
        self.step = 0
        self.done = False
        self._stops = stops
        self._end_ids = torch.tensor(list(end_ids), dtype=torch.int64, device=device)
        shape = (num_prompts, num_beams)
        # Only the first beam may be continued in the first step: all beams are still the same prompt.
        self.running_scores = torch.full(shape, IMPOSSIBLE, device=device)
        self.running_scores[:, 0] = 0.0
        self._running_tokens = torch.zeros(*shape, max_new_tokens, dtype=torch.int64, device=device)
        self._running_origins = torch.full((*shape, max_new_tokens), -1, dtype=torch.int64, device=device)
        self._scores = torch.full(shape, IMPOSSIBLE, device=device)
        self._tokens = self._running_tokens.clone()
        self._origins = self._running_origins.clone()
        self._finished = torch.zeros(shape, dtype=torch.bool, device=device)
        self._can_improve = torch.ones(num_prompts, 1, dtype=torch.bool, device=device)
        self._row_offset = torch.arange(num_prompts, device=device)[:, None] * num_beams

    def advance(self, log_probs: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
        """Take one step.

        Parameters
        ----------
        log_probs
            (P·W, V): processed log-probabilities of every running beam's next token.

        Returns
        -------
        tokens : torch.Tensor
            (P·W,) the running beams' new tokens.
        parents : list of int
            For each new row, the row that it continues.
        """
        scores, tokens, origins, stopped = self._continuations(log_probs)
        self.step += 1
        self._keep_running(scores, tokens, origins, stopped)
        self._keep_finished(scores, tokens, origins, stopped)
        self._update_hopes()
        complete = self.early_stopping is True and bool(self._finished.all())
        self.done = complete or bool(stopped.all()) or not bool(self._can_improve.any())
        last = self.step - 1
        return self._running_tokens[:, :, last].flatten(), self._running_origins[:, :, last].flatten().tolist()

    def _continuations(self, log_probs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The best continuations of each prompt: scores (P, C), tokens and origins (P, C, N), whether each stops."""
        vocab_size = log_probs.shape[-1]
        totals = log_probs.view(self.num_prompts, self.num_beams, vocab_size) + self.running_scores[:, :, None]
        scores, flat = totals.view(self.num_prompts, -1).topk(self.candidates)
        beams, new_tokens = flat // vocab_size, flat % vocab_size
        tokens = _rows(self._running_tokens, beams)
        origins = _rows(self._running_origins, beams)
        tokens[:, :, self.step] = new_tokens
        origins[:, :, self.step] = beams + self._row_offset
        stopped = torch.isin(new_tokens, self._end_ids)
        if self.step + 1 == self.max_new_tokens:
            stopped = torch.ones_like(stopped)
        elif self._stops is not None:
            ended = [
                [self._stops(prompt, row[: self.step + 1]) for row in rows]
                for prompt, rows in enumerate(tokens.tolist())
            ]
            stopped = stopped | torch.tensor(ended, device=stopped.device)
        return scores, tokens, origins, stopped

    def _keep_running(
        self, scores: torch.Tensor, tokens: torch.Tensor, origins: torch.Tensor, stopped: torch.Tensor
    ) -> None:
        open_scores = scores + stopped.float() * IMPOSSIBLE
        best = open_scores.topk(self.num_beams).indices
        self.running_scores = open_scores.gather(1, best)
        self._running_tokens = _rows(tokens, best)
        self._running_origins = _rows(origins, best)

    def _keep_finished(
        self, scores: torch.Tensor, tokens: torch.Tensor, origins: torch.Tensor, stopped: torch.Tensor
    ) -> None:
        finishing = stopped.clone()
        finishing[:, self.num_beams :] = False
        # `self.step` already counts the token at hand: it is the hypothesis' length with the end token.
        final = scores / self.step**self.length_penalty
        complete = self._finished.all(dim=1, keepdim=True) & (self.early_stopping is True)
        barred = complete.float() + (~self._can_improve).float() + (~finishing).float()
        final = final + barred * IMPOSSIBLE
        merged = torch.cat((self._scores, final), dim=1)
        best = merged.topk(self.num_beams).indices
        self._scores = merged.gather(1, best)
        self._tokens = _rows(torch.cat((self._tokens, tokens), dim=1), best)
        self._origins = _rows(torch.cat((self._origins, origins), dim=1), best)
        self._finished = torch.cat((self._finished, finishing), dim=1).gather(1, best)

    def _update_hopes(self) -> None:
        """A prompt can improve while its best running beam could beat the worst of its finished hypotheses."""
        length = self.step
        if self.early_stopping == "never" and self.length_penalty > 0.0:
            length = self.max_new_tokens
        hoped = self.running_scores[:, :1] / length**self.length_penalty  # (P, 1)
        worst = torch.where(self._finished, self._scores.min(dim=1, keepdim=True).values, IMPOSSIBLE)  # (P, W)
        self._can_improve = self._can_improve & (hoped > worst).any(dim=1, keepdim=True)

    def running(self) -> list[list[list[int]]]:
        """The running beams' new tokens so far, ``[prompt][beam]``."""
        return [[row[: self.step] for row in rows] for rows in self._running_tokens.tolist()]

    def result(self) -> BeamResult:
        """The hypotheses found, best first."""
        lengths = (self._origins >= 0).sum(dim=2).tolist()
        tokens, origins = self._tokens.tolist(), self._origins.tolist()

        def cut(rows: list[list[list[int]]]) -> list[list[list[int]]]:
            return [
                [row[:length] for row, length in zip(beams, sizes, strict=True)]
                for beams, sizes in zip(rows, lengths, strict=True)
            ]

        return BeamResult(cut(tokens), self._scores, cut(origins))


def _rows(tensor: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Pick ``tensor[p, indices[p, c]]`` of a (P, W, N) tensor: (P, C, N)."""
    return tensor.gather(1, indices[:, :, None].expand(-1, -1, tensor.shape[2]))
