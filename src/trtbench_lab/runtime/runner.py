"""`ModelRunner`: load an engine folder and generate, with TensorRT-LLM's names for keywords and outputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import torch

from ..errors import RequestError
from ..specs import SamplingConfig
from .limits import EngineLimits, prompts_from_request
from .loop import BeamGeneration, RowGeneration
from .outputs import add_log_probs, outputs_from_hypotheses
from .queued import QueuedGeneration, serves
from .request import GenerationRequest, settle
from .session import PREFILL_CHUNK_TOKENS, Session
from .timing import TokenClock

if TYPE_CHECKING:
    from ..backends.protocol import Executor
    from ..engine import Engine


class ModelRunner:
    """Generates with one engine.

    Parameters
    ----------
    executor
        A loaded engine.
    limits
        The largest request it takes.
    prefill_chunk_tokens
        Longest piece of a prompt given to the engine at once.
    name
        The model's label, for results.

    Examples
    --------
    >>> runner = ModelRunner.from_dir("engine")                                            # doctest: +SKIP
    >>> outputs = runner.generate([[464, 3290]], max_new_tokens=8, end_id=50256)           # doctest: +SKIP
    >>> outputs["output_ids"].shape                                                        # doctest: +SKIP
    torch.Size([1, 1, 10])
    """

    def __init__(
        self,
        executor: Executor,
        limits: EngineLimits,
        *,
        prefill_chunk_tokens: int = PREFILL_CHUNK_TOKENS,
        name: str | None = None,
    ) -> None:
        longest = limits.max_input_len or prefill_chunk_tokens
        # An engine of the paged form brings a session of its own, which queues steps on the device; what that does not
        # offer (beams, logits of prompts) runs in the padded form, over the same weights.
        # Pipeline stages have one where the engine's keys are rounded.
        fused = hasattr(executor, "fused_session")
        self._paged: Any = executor if fused and cast(Any, executor).generates_from_pages else None
        padded: Executor = cast(Any, executor).padded() if fused else executor
        self.session = Session(
            padded, prefill_chunk_tokens=min(prefill_chunk_tokens, longest), max_positions=limits.max_seq_len
        )
        self.limits = limits
        self.name = name

    @classmethod
    def from_dir(cls, engine_dir: str | Path, rank: int = 0, **options: Any) -> Self:
        """Load an engine folder, checked against damage, version and machine.

        Parameters
        ----------
        engine_dir
            What `build` wrote.
        rank
            Which rank's engine this process runs.
        options
            As for the constructor.

        Raises
        ------
        EngineError
            When the folder is damaged, or does not fit this machine or version.
        """
        from ..engine import Engine

        return cls.from_engine(Engine.from_dir(engine_dir, verify="load"), rank=rank, **options)

    @classmethod
    def from_engine(cls, engine: Engine, rank: int = 0, **options: Any) -> Self:
        """Load an engine that is at hand as an object; of several ranks every process makes the same calls."""
        config = engine.config.pretrained_config
        if config.mapping.world_size > 1:
            from .ranked import ranked_runner

            return cast(Self, ranked_runner(engine, options))
        limits = EngineLimits.from_configs(config, engine.config.build_config)
        options.setdefault("name", engine.name)
        return cls(engine.executor(rank), limits, **options)

    @property
    def backend(self) -> str:
        """Name of the backend that runs the engine; shown with every result."""
        return self.session.executor.backend

    @property
    def device(self) -> torch.device:
        """Where the engine runs."""
        return self.session.device

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return self.limits.vocab_size

    @property
    def max_sequence_length(self) -> int | None:
        """Most tokens of prompt and output together."""
        return self.limits.max_seq_len

    def generate(
        self,
        batch_input_ids: Any,
        sampling_config: SamplingConfig | None = None,
        *,
        streaming: bool = False,
        return_dict: bool = True,
        **keywords: Any,
    ) -> Any:
        """Generate tokens for a batch of prompts.

        Parameters
        ----------
        batch_input_ids
            One 1-D integer tensor (or list) a prompt; lengths may differ.
        sampling_config
            Settings; None: the defaults of `SamplingConfig` (greedy).
        streaming
            Return an iterator that yields the dictionary after every token, longer each time.
        return_dict
            False returns ``output_ids`` alone.
        keywords
            Any field of `SamplingConfig` over `sampling_config`: ``max_new_tokens``, ``end_id`` (one or a list),
            ``pad_id``, ``temperature``, ``top_k``, ``top_p``, ``num_beams``, ``length_penalty``, ``early_stopping``
            (True, False, ``"never"``), ``repetition_penalty``, ``presence_penalty``, ``frequency_penalty``,
            ``min_length``, ``stop_words``, ``bad_words`` (token sequences for all rows, or a list of such lists a row),
            ``random_seed`` (one, or a list of one a row), ``output_log_probs``, ``output_logits``; and
            ``output_context_logits``, ``truncation`` (``"error"``, ``"left"``, ``"right"``).

        Returns
        -------
        dict, torch.Tensor, or an iterator of them
            See `outputs_from_hypotheses`; on request also ``log_probs``, ``cum_log_probs``, ``generation_logits``
            (B, W, steps, V) and ``context_logits`` (a (length, V) tensor a prompt); with beams ``sequences_scores``
            (B, W).

        Raises
        ------
        RequestError
            For a request outside the engine's limits, or a wrong or unknown keyword.
        """
        clock = TokenClock()
        self.session.executor.synchronize()
        clock.start()
        prompts, request = self._checked(batch_input_ids, sampling_config, keywords)
        generation: RowGeneration | BeamGeneration
        if self._paged is not None and serves(request):
            generation = QueuedGeneration(self._fused_session(), prompts, request, clock)
        else:
            kind = BeamGeneration if request.config.num_beams > 1 else RowGeneration
            generation = kind(self.session, prompts, request, clock)
        if streaming:
            return self._stream(generation, return_dict)
        with torch.no_grad():
            for _ in generation.steps():
                pass
            return _outputs(generation, return_dict)

    def _checked(
        self, batch_input_ids: Any, sampling_config: SamplingConfig | None, keywords: dict[str, Any]
    ) -> tuple[list[list[int]], GenerationRequest]:
        prompts = prompts_from_request(batch_input_ids, self.vocab_size)
        request = settle(sampling_config, keywords, num_prompts=len(prompts), vocab_size=self.vocab_size)
        prompts = self.limits.fitted(prompts, request.truncation, request.config.max_new_tokens)
        self.limits.check_size([len(p) for p in prompts], request.config.max_new_tokens, request.config.num_beams)
        return prompts, request

    def _fused_session(self) -> Any:
        return self._paged.fused_session()

    def _stream(self, generation: RowGeneration | BeamGeneration, return_dict: bool) -> Iterator[Any]:
        steps = generation.steps()
        while True:
            # Entered anew for each step: a mode held over a yield would leak into the caller's code.
            with torch.no_grad():
                try:
                    next(steps)
                except StopIteration:
                    break
                outputs = _outputs(generation, return_dict)
            yield outputs

    def logits_of(self, sequences: list[list[int]], first: list[int] | None = None) -> list[torch.Tensor]:
        """Return the logits at every position of each sequence, from position ``first[row]`` on (teacher forcing).

        Returns
        -------
        list of torch.Tensor
            (length − first, V) float32 on the CPU; row t scores the token that follows position first + t.
        """
        checked = prompts_from_request(sequences, self.vocab_size)
        self.limits.check_size([len(sequence) for sequence in checked], 0, 1)
        if first is not None and (len(first) != len(checked) or not all(hasattr(at, "__index__") for at in first)):
            raise RequestError(
                f"first is {first!r}, and there are {len(checked)} sequences.",
                where="first",
                remedy="Give one position a sequence, as a whole number.",
            )
        with torch.no_grad():
            return [logits.cpu() for logits in self.session.logits_of(checked, first)]

    def memory(self) -> dict[str, int]:
        """Bytes held by the engine and its cache."""
        if self._paged is None:
            return self.session.memory()
        held = self.session.memory()
        held["kv_cache_bytes"] += self._paged.fused_session().memory()["kv_cache_bytes"]
        return held

    def close(self) -> None:
        """Free the engine and the cache."""
        self.session.close()
        if self._paged is not None:
            self._paged.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        limits = self.limits
        return (
            f"ModelRunner({self.name or 'engine'}, backend {self.backend}, max_batch_size {limits.max_batch_size}, "
            f"max_input_len {limits.max_input_len}, max_seq_len {limits.max_seq_len}, "
            f"max_beam_width {limits.max_beam_width})"
        )


def _outputs(generation: RowGeneration | BeamGeneration, return_dict: bool) -> Any:
    request = generation.request
    hypotheses = generation.hypotheses()
    timing = generation.clock.timing(generation.num_steps_per_row)
    outputs = outputs_from_hypotheses(generation.prompts, hypotheses, request, timing)
    if not return_dict:
        return outputs["output_ids"]
    if (log_probs := generation.log_probs()) is not None:
        add_log_probs(outputs, log_probs, hypotheses)
    if (logits := generation.generation_logits()) is not None:
        outputs["generation_logits"] = logits
    if generation.context_logits is not None:
        outputs["context_logits"] = generation.context_logits
    if (scores := generation.scores()) is not None:
        outputs["sequences_scores"] = scores
    return outputs
