"""The Hugging Face side: ``transformers``' own generate behind the runner's interface, timed by the same clock."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch

from ..errors import IntakeError, RequestError
from ..specs import SamplingConfig
from .limits import EngineLimits, prompts_from_request
from .outputs import add_log_probs, ends_with_stop_word, outputs_from_hypotheses
from .request import GenerationRequest, settle
from .sampling import count_tokens, penalize_presence_and_frequency
from .timing import TokenClock

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class HFRunner:
    """Generates with a Hugging Face model; the same keywords and outputs as `ModelRunner`.

    The model's own generation_config.json is set aside (`model_defaults` keeps it), so that both sides follow the
    request alone. Ragged batches are padded on the left, with the attention mask passed explicitly.

    Parameters
    ----------
    model
        A causal language model of ``transformers``.
    name
        Its label, for results.
    """

    backend = "huggingface"

    def __init__(self, model: Any, *, name: str | None = None) -> None:
        from transformers import GenerationConfig

        self.model = model.eval()
        self.name = name
        self.model_defaults = model.generation_config
        model.generation_config = GenerationConfig()
        config = model.config.get_text_config()
        self.limits = EngineLimits(
            vocab_size=config.vocab_size, max_seq_len=getattr(config, "max_position_embeddings", None)
        )

    @classmethod
    def from_dir(
        cls,
        model_dir: str | Path,
        *,
        dtype: str = "float32",
        device: str | torch.device = "cpu",
        trust_remote_code: bool = False,
    ) -> Self:
        """Load a local model folder.

        Parameters
        ----------
        model_dir
            Folder with config.json and weights.
        dtype
            ``"float32"``, ``"float16"`` or ``"bfloat16"``.
        device
            Where to run it.
        trust_remote_code
            Whether code that lies in the folder may be executed.

        Raises
        ------
        IntakeError
            When the folder is missing or cannot be loaded.
        """
        if dtype not in DTYPES:
            raise RequestError(
                f"{dtype!r} is not a dtype to load a model in.", where="dtype", remedy=f"Use {', '.join(DTYPES)}."
            )
        if not (Path(model_dir) / "config.json").is_file():
            raise IntakeError(
                "There is no Hugging Face model here: config.json is missing.",
                where=str(model_dir),
                remedy="Give the folder of the original model (the engine folder holds no such model).",
            )
        from transformers import AutoModelForCausalLM

        try:
            with _no_progress_bars():
                model = AutoModelForCausalLM.from_pretrained(
                    str(model_dir), dtype=DTYPES[dtype], trust_remote_code=trust_remote_code, local_files_only=True
                )
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            raise IntakeError(
                "Hugging Face's transformers could not load the model.",
                where=str(model_dir),
                remedy="Check that config.json and the weight files belong together; the details tell what it said.",
                details=str(error),
            ) from error
        return cls(model.to(device), name=Path(model_dir).name)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return torch.device(self.model.device)

    @property
    def dtype(self) -> str:
        """Element type of the weights, for example ``"float32"``."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return self.limits.vocab_size

    def generate(
        self,
        batch_input_ids: Any,
        sampling_config: SamplingConfig | None = None,
        *,
        streaming: bool = False,
        return_dict: bool = True,
        **keywords: Any,
    ) -> Any:
        """As `ModelRunner.generate`, by ``transformers``.

        Differences that cannot be hidden: with sampling, the rows of a batch share one random stream (one prompt at a
        time draws exactly as the engine's runner does), so a list of seeds is refused; streaming gives no beams.
        """
        clock = TokenClock()
        self.synchronize()
        clock.start()
        prompts = prompts_from_request(batch_input_ids, self.vocab_size)
        request = settle(sampling_config, keywords, num_prompts=len(prompts), vocab_size=self.vocab_size)
        prompts = self.limits.fitted(prompts, request.truncation, request.config.max_new_tokens)
        self.limits.check_size([len(p) for p in prompts], request.config.max_new_tokens, request.config.num_beams)
        if not request.rules.greedy and len(set(request.rules.seeds)) > 1:
            raise RequestError(
                "Hugging Face draws a whole batch from one random stream: one seed a row is not possible.",
                where="random_seed",
                remedy="Give one seed, or one prompt at a time.",
            )
        generation = _HFGeneration(self, prompts, request, clock)
        if streaming:
            if request.config.num_beams > 1:
                raise RequestError(
                    "Hugging Face does not stream beams.", where="streaming", remedy="Use num_beams=1, or no streaming."
                )
            return generation.stream(return_dict)
        generation.run(_Recorder(generation))
        return generation.outputs(return_dict)

    def logits_of(self, sequences: Sequence[Sequence[int]], first: Sequence[int] | None = None) -> list[torch.Tensor]:
        """As `ModelRunner.logits_of`: the logits at every position of each sequence, one forward pass a sequence."""
        checked = prompts_from_request(sequences, self.vocab_size)
        first = list(first) if first is not None else [0] * len(checked)
        logits = []
        with torch.no_grad():
            for ids, start in zip(checked, first, strict=True):
                row = torch.tensor([ids], device=self.device)
                kept = self.model(input_ids=row, attention_mask=torch.ones_like(row), logits_to_keep=len(ids) - start)
                logits.append(kept.logits[0].float().cpu())
        return logits

    def memory(self) -> dict[str, int]:
        """Bytes of the weights."""
        tensors = {t.data_ptr(): t.numel() * t.element_size() for t in self.model.parameters()}
        return {"weights_bytes": sum(tensors.values())}

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def close(self) -> None:
        """Let go of the model."""
        self.model = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"HFRunner({self.name or 'model'}, {self.dtype}, {self.device})"


class _Recorder:
    """A streamer of ``transformers``: called with the prompt once, then with each step's tokens on the host."""

    def __init__(self, generation: _HFGeneration, deliver: Callable[[], None] | None = None) -> None:
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


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Keep ``transformers`` from drawing bars of its own into a notebook or log; its setting comes back afterwards."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


class _HFGeneration:
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

    def run(self, streamer: _Recorder | None) -> None:
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
                self.run(_Recorder(self, deliver))
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
