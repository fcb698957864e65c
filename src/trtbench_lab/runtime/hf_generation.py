"""One call of ``transformers``' generate: the request in its terms, its steps timed, its results in our form."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..errors import RequestError
from .outputs import add_log_probs, ends_with_stop_word, outputs_from_hypotheses
from .request import GenerationRequest
from .sampling import count_tokens, penalize_presence_and_frequency
from .timing import TokenClock

if TYPE_CHECKING:
    from .hf import HFRunner


class Recorder:
    """A streamer of ``transformers``: called with the prompt once, then with each step's tokens on the host."""

    def __init__(self, generation: HFGeneration, deliver: Callable[[], None] | None = None) -> None:
        self._generation = generation
        self._deliver = deliver
        self._prompt_seen = False

    def put(self, tokens: torch.Tensor) -> None:
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        self._generation.clock.mark()
        self._generation.record(tokens.tolist())
        if self._deliver is not None:
            self._deliver()

    def end(self) -> None:
        """Nothing is held back."""


class HFGeneration:
    """One call of ``transformers``' generate, brought into the form of the runner's outputs."""

    def __init__(
        self, runner: HFRunner, prompts: list[list[int]], request: GenerationRequest, clock: TokenClock
    ) -> None:
        self.runner, self.prompts, self.request, self.clock = runner, prompts, request, clock
        self.tokens: list[list[int]] = [[] for _ in prompts]
        self._active = list(range(len(prompts)))
        self._raw: Any = None

    def record(self, tokens: Sequence[int]) -> None:
        """Append one step's tokens to the rows that have not ended."""
        for row in list(self._active):
            new = self.tokens[row]
            new.append(tokens[row])
            if tokens[row] in self.request.end_ids or ends_with_stop_word(new, self.request, row):
                self._active.remove(row)

    def run(self, streamer: Recorder | None) -> None:
        """Generate, in the calling thread."""
        from transformers import LogitsProcessorList, StoppingCriteriaList

        device, longest = self.runner.device, max(len(prompt) for prompt in self.prompts)
        padding = [longest - len(prompt) for prompt in self.prompts]
        fill = self.request.fill_id
        ids = [[fill] * pad + prompt for pad, prompt in zip(padding, self.prompts, strict=True)]
        mask = [[0] * pad + [1] * (longest - pad) for pad in padding]
        with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.request.rules.seeds[0])
            self._raw = self.runner.model.generate(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=self._generation_config(),
                logits_processor=LogitsProcessorList(self._penalties(longest)),
                stopping_criteria=StoppingCriteriaList(self._stopping(longest)),
                # generate refuses a streamer with beams; there the clock runs in the stopping criteria
                streamer=streamer if self.request.config.num_beams == 1 else None,
            )

    def stream(self, return_dict: bool) -> Iterator[Any]:
        """Generate in a thread of its own and yield after every step."""
        steps: queue.Queue[Any] = queue.Queue()
        closed = threading.Event()

        def deliver() -> None:
            if closed.is_set():
                raise _StreamClosed
            steps.put(self.outputs(return_dict, partial=True))

        def work() -> None:
            try:
                self.run(Recorder(self, deliver))
                steps.put(None)
            except _StreamClosed:
                pass
            except BaseException as error:
                steps.put(error)

        thread = threading.Thread(target=work, name="hf-generate", daemon=True)
        thread.start()
        try:
            while (item := steps.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            closed.set()
            thread.join()

    def outputs(self, return_dict: bool, *, partial: bool = False) -> Any:
        """The dictionary that `generate` returns."""
        beams = self.request.config.num_beams
        if beams == 1:
            hypotheses = [[list(new)] for new in self.tokens]
            steps = [len(new) for new in self.tokens]
        else:
            hypotheses = self._beam_hypotheses()
            steps = [len(self.clock.token_ns)] * len(self.prompts)
        outputs = outputs_from_hypotheses(self.prompts, hypotheses, self.request, self.clock.timing(steps))
        if not return_dict:
            return outputs["output_ids"]
        if partial:
            return outputs
        if beams > 1:
            outputs["sequences_scores"] = self._raw.sequences_scores.view(len(self.prompts), beams).cpu()
        if self.request.config.output_log_probs or self.request.config.output_logits:
            logits = self._generation_logits(hypotheses)
            if self.request.config.output_logits:
                outputs["generation_logits"] = logits
            if self.request.config.output_log_probs:
                add_log_probs(outputs, _picked(logits.log_softmax(dim=-1), hypotheses), hypotheses)
        if self.request.output_context_logits:
            outputs["context_logits"] = self.runner.logits_of(self.prompts)
        return outputs

    def _generation_config(self) -> Any:
        from transformers import GenerationConfig

        config, rules = self.request.config, self.request.rules
        shared = {
            "max_new_tokens": config.max_new_tokens,
            "eos_token_id": list(self.request.end_ids) or None,
            "pad_token_id": self.request.fill_id,
            "repetition_penalty": rules.repetition_penalty,
            "min_new_tokens": rules.min_new_tokens or None,
            "bad_words_ids": self._bad_words(),
            "return_dict_in_generate": True,
            "output_logits": config.output_logits or config.output_log_probs,
        }
        if config.num_beams > 1:
            return GenerationConfig(
                **shared,
                do_sample=False,
                num_beams=config.num_beams,
                num_return_sequences=config.num_beams,
                length_penalty=config.length_penalty,
                early_stopping=self.request.early_stopping,
                output_scores=True,
            )
        if rules.greedy:
            return GenerationConfig(**shared, do_sample=False)
        return GenerationConfig(
            **shared, do_sample=True, temperature=rules.temperature, top_k=rules.top_k, top_p=rules.top_p
        )

    def _bad_words(self) -> list[list[int]] | None:
        words = self.request.rules.bad_words
        if len(set(words)) > 1:
            raise RequestError(
                "Hugging Face takes the same bad words for every row of a batch.",
                where="bad_words",
                remedy="Give one list of words, or one prompt at a time.",
            )
        return [list(word) for word in words[0]] if words and words[0] else None

    def _penalties(self, prompt_width: int) -> list[Any]:
        """Presence and frequency penalties, which transformers has not; scaled to act after its temperature."""
        rules = self.request.rules
        if not rules.presence_penalty and not rules.frequency_penalty:
            return []
        prompts, vocab_size = self.prompts, self.runner.vocab_size
        beams = self.request.config.num_beams

        def penalize(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            new = input_ids[:, prompt_width:].tolist()
            counts = count_tokens(
                [prompts[row // beams] + tokens for row, tokens in enumerate(new)], vocab_size, scores.device
            )
            return penalize_presence_and_frequency(
                scores, counts, rules.presence_penalty * rules.temperature, rules.frequency_penalty * rules.temperature
            )

        return [penalize]

    def _stopping(self, prompt_width: int) -> list[Any]:
        """Stop words; and for beams the clock, as the criteria run once a step."""
        beams, request, clock = self.request.config.num_beams, self.request, self.clock
        if beams == 1 and not request.checks_stop_words:
            return []

        def stops(input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            if beams > 1:
                self.runner.synchronize()
                clock.mark()
            rows = input_ids.shape[0] // len(self.prompts)  # beams or candidates a prompt
            new = input_ids[:, prompt_width:].tolist() if request.checks_stop_words else [[]] * len(input_ids)
            ended = [ends_with_stop_word(tokens, request, row // rows) for row, tokens in enumerate(new)]
            return torch.tensor(ended, dtype=torch.bool, device=input_ids.device)

        return [stops]

    def _beam_hypotheses(self) -> list[list[list[int]]]:
        """New tokens ``[prompt][beam]``; the recorded beam indices tell how many of a row are no padding."""
        beams, width = self.request.config.num_beams, max(len(prompt) for prompt in self.prompts)
        lengths = (self._raw.beam_indices >= 0).sum(dim=1).tolist()
        rows = self._raw.sequences[:, width:].tolist()
        cut = [row[:length] for row, length in zip(rows, lengths, strict=True)]
        return [cut[start : start + beams] for start in range(0, len(cut), beams)]

    def _generation_logits(self, hypotheses: list[list[list[int]]]) -> torch.Tensor:
        """(B, W, steps, V) raw logits, 0 past a row's last token."""
        beams = self.request.config.num_beams
        steps = self._raw.logits
        picked = torch.zeros(len(self.prompts), beams, len(steps), self.runner.vocab_size)
        for row, row_hypotheses in enumerate(hypotheses):
            for beam, new in enumerate(row_hypotheses):
                flat = row * beams + beam
                for step in range(len(new)):
                    source = flat if beams == 1 else int(self._raw.beam_indices[flat, step])
                    picked[row, beam, step] = steps[step][source].float().cpu()
        return picked


class _StreamClosed(Exception):
    """The reader of a stream went away; unwinds the generating thread."""


def _picked(log_probs: torch.Tensor, hypotheses: list[list[list[int]]]) -> torch.Tensor:
    """(B, W, steps) of (B, W, steps, V): each token's own."""
    picked = torch.zeros(log_probs.shape[:3])
    for row, beams in enumerate(hypotheses):
        for beam, new in enumerate(beams):
            if new:
                picked[row, beam, : len(new)] = log_probs[row, beam, range(len(new)), new]
    return picked
