"""Generation whose steps queue on the device: tokens feed the next step there and are read as they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..errors import EngineError
from .loop import RowGeneration, _check_still_ours
from .request import GenerationRequest
from .sampling import LogitsPipeline, RowSampler, largest
from .timing import TokenClock

QUEUED_STEPS = 4
"""Steps submitted ahead of the one whose tokens are read: enough to cover the host's work between two tokens."""


def serves(request: GenerationRequest) -> bool:
    """Whether a request can be queued: beams and the prompts' own logits take the padded session."""
    return request.config.num_beams == 1 and not request.output_context_logits


class OnItsWay:
    """A tensor that is being copied to the host; reading it waits for the copy, not for the steps queued behind it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._event = None
        if tensor.device.type != "cuda":
            self._host = tensor.clone()
            return
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record(torch.cuda.current_stream(tensor.device))

    def tensor(self) -> torch.Tensor:
        """Wait, and return it in ordinary memory: pinned memory goes to the next copy."""
        if self._event is None:
            return self._host
        self._event.synchronize()
        return self._host.clone()


class QueuedGeneration(RowGeneration):
    """The interface of `RowGeneration`, over a session of the engine's own that queues steps.

    Parameters
    ----------
    session
        Has ``start(prompts, new_tokens)``, ``greedy()``, ``take(chosen)``, ``forward()``; see the backend's session.
    prompts, request, clock
        As for `RowGeneration`.
    """

    def __init__(
        self, session: Any, prompts: Sequence[Sequence[int]], request: GenerationRequest, clock: TokenClock
    ) -> None:
        super().__init__(session, prompts, request, clock)
        self._kept_probs: deque[OnItsWay] = deque()
        self._kept_logits: deque[OnItsWay] = deque()

    session: Any

    def steps(self) -> Iterator[None]:
        """Run; yields after each step."""
        rules, config, session = self.request.rules, self.request.config, self.session
        logits = session.start(self.prompts, config.max_new_tokens)
        request_number = session.request_number
        faulty = logits.isnan().any(dim=1)
        looks_at_logits = config.output_log_probs or config.output_logits
        plain = rules.greedy and not rules.changes_logits and not looks_at_logits
        pipeline = LogitsPipeline(rules, self.prompts, session.vocab_size, session.device)
        sampler = None if rules.greedy else RowSampler(rules.seeds, session.device)
        # Banned words are found in the tokens on the host, so each step waits for the one before.
        follows_host = any(rules.bad_words)
        ahead = 1 if follows_host else QUEUED_STEPS
        tickets: deque[Any] = deque()
        submitted = 0

        def submit() -> None:
            nonlocal logits
            if plain:
                tickets.append((session.greedy(), None))
                return
            if submitted:
                logits = session.forward()
            processed = pipeline.process(logits)
            chosen = largest(processed) if sampler is None else sampler.draw(pipeline.filter(processed))
            if config.output_log_probs:
                self._kept_probs.append(OnItsWay(logits.log_softmax(dim=-1).gather(1, chosen[:, None])))
            if config.output_logits:
                self._kept_logits.append(OnItsWay(logits))
            if not follows_host:
                pipeline.append(chosen, [])
            tickets.append((session.take(chosen), chosen))

        for step in range(1, config.max_new_tokens + 1):
            while submitted < min(config.max_new_tokens, step - 1 + ahead):
                submit()
                submitted += 1
            ticket, chosen = tickets.popleft()
            tokens = ticket.tokens()
            self.clock.mark()
            if step == 1:
                _refuse_nan(faulty)
            if follows_host and chosen is not None:
                pipeline.append(chosen, tokens)
            if self._kept_probs:
                self._log_probs.append(self._kept_probs.popleft().tensor())
            if self._kept_logits:
                self._logits.append(self._kept_logits.popleft().tensor())
            self._record(tokens)
            yield
            if not self._active or step == config.max_new_tokens:
                return
            _check_still_ours(session, request_number)


def _refuse_nan(faulty: torch.Tensor) -> None:
    if bool(faulty.any()):
        raise EngineError(
            f"The engine gives NaN for prompt {int(faulty.nonzero()[0])}.",
            remedy="Look for NaN in the checkpoint's weights; in float16 the activations may have overflowed: build "
            "with compute_dtype='float32'.",
        )
