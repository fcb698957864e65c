"""The two generation loops over a session: one token a row (greedy or sampled), and beams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from ..errors import EngineError, RequestError
from .beams import BeamResult, BeamSearch
from .outputs import ends_with_stop_word
from .request import GenerationRequest
from .sampling import LogitsPipeline, RowSampler, SamplingRules, largest, one_thread
from .session import Session
from .timing import TokenClock


class RowGeneration:
    """Greedy or sampled generation; `steps` yields once a token, after which `hypotheses` is up to date.

    Parameters
    ----------
    session
        Where the model runs.
    prompts
        Checked token ids.
    request
        Settled keywords.
    clock
        Started by the caller; marked when a step's tokens are on the host.
    """

    def __init__(
        self, session: Session, prompts: Sequence[Sequence[int]], request: GenerationRequest, clock: TokenClock
    ) -> None:
        self.session, self.prompts, self.request, self.clock = session, prompts, request, clock
        self.context_logits: list[torch.Tensor] | None = None
        self._tokens: list[list[int]] = [[] for _ in prompts]
        self._active = list(range(len(prompts)))
        self._log_probs: list[torch.Tensor] = []
        self._logits: list[torch.Tensor] = []

    def steps(self) -> Iterator[None]:
        """Run; yields after each step."""
        rules, config = self.request.rules, self.request.config
        logits, self.context_logits = _start(self.session, self.prompts, self.request)
        request_number = self.session.request_number
        plain = rules.greedy and not rules.changes_logits
        pipeline = LogitsPipeline(rules, self.prompts, self.session.vocab_size, self.session.device)
        sampler = None if rules.greedy else RowSampler(rules.seeds, self.session.device)
        for step in range(1, config.max_new_tokens + 1):
            if plain:
                chosen = largest(logits)
            else:
                with one_thread(self.session.device):
                    processed = pipeline.process(logits)
                    chosen = largest(processed) if sampler is None else sampler.draw(pipeline.filter(processed))
            tokens = chosen.tolist()  # waits for the device
            self.clock.mark()
            if not plain:
                pipeline.append(chosen, tokens)
            if config.output_log_probs:
                self._log_probs.append(logits.log_softmax(dim=-1).gather(1, chosen[:, None]).cpu())
            if config.output_logits:
                self._logits.append(logits.to("cpu", copy=True))
            self._record(tokens)
            yield
            if not self._active or step == config.max_new_tokens:
                return
            _check_still_ours(self.session, request_number)
            logits = self.session.decode(chosen)

    def _record(self, tokens: Sequence[int]) -> None:
        end_ids = self.request.end_ids
        still_active = []
        for row in self._active:
            token, new = tokens[row], self._tokens[row]
            new.append(token)
            if token not in end_ids and not ends_with_stop_word(new, self.request, row):
                still_active.append(row)
        self._active = still_active

    @property
    def num_steps_per_row(self) -> list[int]:
        """Tokens made for each row, end token included."""
        return [len(new) for new in self._tokens]

    def hypotheses(self) -> list[list[list[int]]]:
        """New tokens ``[row][0]``, end token included."""
        return [[new] for new in self._tokens]

    def scores(self) -> None:
        """Rows have no beam scores."""

    def log_probs(self) -> torch.Tensor | None:
        """(B, 1, steps): the model's own log-probability of each token."""
        return torch.stack([step[:, 0] for step in self._log_probs], dim=1)[:, None] if self._log_probs else None

    def generation_logits(self) -> torch.Tensor | None:
        """(B, 1, steps, V): the raw logits that each token was chosen from."""
        return torch.stack(self._logits, dim=1)[:, None] if self._logits else None


class BeamGeneration:
    """Beam search; the same interface as `RowGeneration`."""

    def __init__(
        self, session: Session, prompts: Sequence[Sequence[int]], request: GenerationRequest, clock: TokenClock
    ) -> None:
        self.session, self.prompts, self.request, self.clock = session, prompts, request, clock
        self.context_logits: list[torch.Tensor] | None = None
        self._logits: list[torch.Tensor] = []
        self._result: BeamResult | None = None
        config = request.config
        self.search = BeamSearch(
            len(prompts),
            config.num_beams,
            config.max_new_tokens,
            end_ids=request.end_ids,
            length_penalty=config.length_penalty,
            early_stopping=request.early_stopping,
            stops=self._stops if request.checks_stop_words else None,
            device=session.device,
        )

    def steps(self) -> Iterator[None]:
        """Run; yields after each step."""
        config, beams = self.request.config, self.request.config.num_beams
        logits, self.context_logits = _start(self.session, self.prompts, self.request)
        request_number = self.session.request_number
        logits = logits.repeat_interleave(beams, dim=0)  # (P·W, V)
        self.session.expand(beams)
        rows = [prompt for prompt in self.prompts for _ in range(beams)]
        pipeline = LogitsPipeline(self._rules_of_beams(), rows, self.session.vocab_size, self.session.device)
        while True:
            if config.output_logits or config.output_log_probs:
                self._logits.append(logits.to("cpu", copy=True))
            with one_thread(self.session.device):
                tokens, parents = self.search.advance(pipeline.process(logits.log_softmax(dim=-1)))
            pipeline.take_rows(parents)
            pipeline.append(tokens, tokens.tolist())
            if self.search.done:
                self._result = self.search.result()
            self.clock.mark()
            yield
            if self.search.done:
                return
            _check_still_ours(self.session, request_number)
            self.session.take_rows(parents)
            logits = self.session.decode(tokens)

    def _rules_of_beams(self) -> SamplingRules:
        """The rules with each prompt's bad words repeated for its beams."""
        rules = self.request.rules
        words = tuple(row for row in rules.bad_words for _ in range(self.request.config.num_beams))
        return replace(rules, bad_words=words)

    def _stops(self, prompt: int, new: list[int]) -> bool:
        return ends_with_stop_word(new, self.request, prompt)

    @property
    def num_steps_per_row(self) -> list[int]:
        """Steps of the search, for every prompt."""
        return [self.search.step] * len(self.prompts)

    def hypotheses(self) -> list[list[list[int]]]:
        """New tokens ``[prompt][beam]``: the running beams while searching, then the best hypotheses."""
        return self.search.running() if self._result is None else self._result.tokens

    def scores(self) -> torch.Tensor | None:
        """(P, W) scores of the hypotheses; None while searching."""
        return None if self._result is None else self._result.scores.cpu()

    def log_probs(self) -> torch.Tensor | None:
        """(P, W, longest): the model's own log-probability of each token; 0 past a hypothesis' end."""
        if not self.request.config.output_log_probs or self._result is None:
            return None
        picked = torch.zeros(len(self.prompts), self.request.config.num_beams, self.search.step)
        for (prompt, beam, step), row, token in self._origins():
            picked[prompt, beam, step] = self._logits[step][row].log_softmax(dim=-1)[token]
        return picked

    def generation_logits(self) -> torch.Tensor | None:
        """(P, W, longest, V): the raw logits each token was chosen from; 0 past a hypothesis' end."""
        if not self.request.config.output_logits or self._result is None:
            return None
        shape = (len(self.prompts), self.request.config.num_beams, self.search.step, self.session.vocab_size)
        picked = torch.zeros(shape)
        for (prompt, beam, step), row, _ in self._origins():
            picked[prompt, beam, step] = self._logits[step][row]
        return picked

    def _origins(self) -> Iterator[tuple[tuple[int, int, int], int, int]]:
        """For each token of each hypothesis: its place, the row whose logits it came from, and itself."""
        result = self.search.result() if self._result is None else self._result
        for prompt, beams in enumerate(result.origins):
            for beam, rows in enumerate(beams):
                for step, row in enumerate(rows):
                    yield (prompt, beam, step), row, result.tokens[prompt][beam][step]


def _start(
    session: Session, prompts: Sequence[Sequence[int]], request: GenerationRequest
) -> tuple[torch.Tensor, list[torch.Tensor] | None]:
    """Fill the cache; returns the logits that choose the first token, and the prompts' own when they are wanted."""
    new_tokens = request.config.max_new_tokens
    if request.output_context_logits:
        context = session.logits_of(prompts, new_tokens=new_tokens)
        logits = torch.stack([rows[-1] for rows in context])
        context_logits = [rows.cpu() for rows in context]
    else:
        logits, context_logits = session.prefill(prompts, new_tokens), None
    if bool(logits.isnan().any()):
        row = int(logits.isnan().any(dim=1).nonzero()[0])
        raise EngineError(
            f"The engine gives NaN for prompt {row}.",
            remedy="Look for NaN in the checkpoint's weights; in float16 the activations may have overflowed: build "
            "with compute_dtype='float32'.",
        )
    return logits, context_logits


def _check_still_ours(session: Session, request_number: int) -> None:
    if session.request_number != request_number:
        raise RequestError(
            "Another request was started on this runner before this stream was read to its end.",
            remedy="Read one stream to its end first, or load a second runner.",
        )
