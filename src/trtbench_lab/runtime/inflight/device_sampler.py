"""Chooses the tokens of a step on the device, each row by its own rules, without a word to the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ..sampling import largest
from .stepper import FAULTY_TOKEN

if TYPE_CHECKING:
    from .stepper import SamplingPlan, StepLimits

# A row with top_k up to this is cut by `topk`; beyond, and for top-p alone, the row is sorted.
MOST_CANDIDATES = 1024


class DeviceSampler:
    """Keeps each slot's last token (and, where a request has penalties, its token counts) on the device.

    The order of the steps is that of `runtime.sampling`: repetition penalty → bans → temperature → presence and
    frequency penalties → top-k → top-p → the draw. The draw is by inversion: the first token, most likely ones first,
    at which the sum of probabilities passes the row's uniform number.

    Parameters
    ----------
    limits, device
        Of the runner.

    Attributes
    ----------
    last_tokens
        (slots + 1,) int32: what goes into the next step where its plan names a slot; the last one is nobody's.
    """

    def __init__(self, limits: StepLimits, device: torch.device) -> None:
        self.limits, self.device = limits, device
        self.last_tokens = torch.zeros(limits.max_batch_size + 1, dtype=torch.int32, device=device)
        self._counts: torch.Tensor | None = None

    def choose(
        self, logits: torch.Tensor, plan: SamplingPlan, slots: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Choose one token a row and keep it in its slot.

        Parameters
        ----------
        logits
            (K, V') float32, V' ≥ the vocabulary; unchanged.
        plan
            The rules.
        slots
            (K,) int64 on the device: ``plan.slots``.

        Returns
        -------
        tokens : torch.Tensor
            (K,) int32; `FAULTY_TOKEN` where the row holds NaN.
        log_probs : torch.Tensor or None
            (K,) float32 of the raw logits, where the plan asks for them.
        """
        logits = logits[:, : self.limits.vocab_size]
        if plan.plain:
            chosen = largest(logits)
        else:
            processed = self._processed(logits, plan, slots)
            chosen = largest(processed)
            if not plan.greedy.all():
                chosen = self._drawn(processed, plan, chosen)
        picked = logits.gather(1, chosen[:, None])[:, 0]
        # torch and NumPy both take NaN for the largest, so one NaN in the row is seen in what was chosen; a draw is
        # from probabilities that are all NaN then.
        poisoned = picked.isnan() if plan.plain else logits.amax(dim=1).isnan()
        log_probs = picked - logits.logsumexp(dim=1) if plan.log_probs else None
        if plan.counts_tokens and self._counts is not None:
            self._counts.index_put_((slots, chosen), torch.ones_like(chosen, dtype=torch.int32), accumulate=True)
        tokens = torch.where(poisoned, 0, chosen).to(torch.int32)
        self.last_tokens.index_copy_(0, slots, tokens)
        return torch.where(poisoned, FAULTY_TOKEN, tokens), log_probs

    def _processed(self, logits: torch.Tensor, plan: SamplingPlan, slots: torch.Tensor) -> torch.Tensor:
        counts = None
        if plan.counts_tokens:
            counts = self._counted(plan)[slots]
            if (plan.repetition != 1.0).any():
                penalty = self._column(plan.repetition)
                scaled = torch.where(logits < 0, logits * penalty, logits / penalty)
                logits = torch.where(counts > 0, scaled, logits)
        if plan.ban_rows is not None and plan.ban_tokens is not None:
            where = (self._sent(plan.ban_rows), self._sent(plan.ban_tokens))
            logits = logits.index_put(where, torch.full((), float("-inf"), device=self.device))
        if (plan.temperature != 1.0).any():
            logits = logits / self._column(plan.temperature)
        if counts is not None:
            logits = logits - self._column(plan.presence) * (counts > 0) - self._column(plan.frequency) * counts
        return logits

    def _drawn(self, logits: torch.Tensor, plan: SamplingPlan, largest_tokens: torch.Tensor) -> torch.Tensor:
        """Draw the rows that are not greedy; the plan tells which, so nothing is read back from the device."""
        chosen = largest_tokens
        sampled = ~plan.greedy
        cut = sampled & (plan.top_k > 0) & (plan.top_k <= MOST_CANDIDATES)
        everything = sampled & (plan.top_k == 0) & (plan.top_p >= 1.0)
        for rows, kind in ((cut, "cut"), (everything, "all"), (sampled & ~cut & ~everything, "sorted")):
            if not rows.any():
                continue
            indices = np.flatnonzero(rows)
            where = self._sent(indices)
            part = logits if rows.all() else logits[where]
            tokens = self._draw(part, plan, indices, kind)
            chosen = tokens if rows.all() else chosen.index_copy(0, where, tokens)
        return chosen

    def _draw(self, logits: torch.Tensor, plan: SamplingPlan, rows: np.ndarray, kind: str) -> torch.Tensor:
        uniform = self._column(plan.uniforms[rows]).double()
        if kind == "all":
            return _inverse(logits.softmax(dim=1), uniform)[:, 0]
        top_k, top_p = plan.top_k[rows], plan.top_p[rows]
        if kind == "cut":
            values, tokens = logits.topk(min(int(top_k.max()), logits.shape[1]), dim=1)
        else:
            values, tokens = logits.sort(dim=1, descending=True)
        if (top_k > 0).any():
            limit = self._sent(np.where(top_k > 0, top_k, logits.shape[1]).astype(np.int64))[:, None]
            place = torch.arange(values.shape[1], device=self.device)[None, :]
            values = values.masked_fill(place >= limit, float("-inf"))
        probabilities = values.softmax(dim=1)
        if (top_p < 1.0).any():
            # A token stays while the sum of those before it has not reached top_p: the first always does.
            before = probabilities.cumsum(dim=1) - probabilities
            probabilities = probabilities.masked_fill(before >= self._column(top_p), 0.0)
        return tokens.gather(1, _inverse(probabilities, uniform))[:, 0]

    def _counted(self, plan: SamplingPlan) -> torch.Tensor:
        """Token counts by slot, begun anew for the requests whose first token is chosen now."""
        if self._counts is None:
            shape = (self.limits.max_batch_size, self.limits.vocab_size)
            self._counts = torch.zeros(shape, dtype=torch.int32, device=self.device)
        for slot, tokens in plan.count_resets:
            ids = self._sent(tokens.astype(np.int64))
            # Not bincount, which asks the device for the largest id and waits for it.
            self._counts[slot].zero_().index_add_(0, ids, torch.ones_like(ids, dtype=torch.int32))
        return self._counts

    def _column(self, values: np.ndarray) -> torch.Tensor:
        return self._sent(values)[:, None]

    def _sent(self, values: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        return tensor if self.device.type == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)


def _inverse(probabilities: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The first place at which the running sum passes `uniform` × the whole: (K, 1) int64.

    In float64: a float32 sum over 100,000 tokens is wrong by more than the probability of many of them.
    """
    running = probabilities.cumsum(dim=1, dtype=torch.float64)
    found = torch.searchsorted(running, uniform * running[:, -1:], right=True)
    # The last token of any probability, should rounding ask for more than there is.
    last = (running < running[:, -1:]).sum(dim=1, keepdim=True)
    return torch.minimum(found, last)
