"""`LLM`: text in, text out over a running batch; one call for many prompts, or one object a request that streams."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..errors import RequestError
from ..ranks.world import check_world_size
from ..specs import InflightConfig
from .inflight.batcher import InflightBatcher
from .inflight.executor_runner import step_runner_for
from .inflight.handle import RequestHandle, RequestTiming
from .inflight.params import sampling_of
from .inflight.pool import PoolPlan
from .inflight.sizing import largest_step, planned_pool
from .limits import EngineLimits
from .streaming import TextStream
from .text import encode_prompts

if TYPE_CHECKING:
    from ..engine import Engine


@dataclass(frozen=True)
class CompletionOutput:
    """What was generated for one prompt.

    Attributes
    ----------
    text, token_ids
        New text and tokens so far; `token_ids` has the end token, `text` has not.
    finish_reason
        ``"end_id"``, ``"stop_words"``, ``"length"``, ``"cancelled"``; None while it runs.
    log_probs
        Of each token, where asked for and ended.
    """

    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    log_probs: list[float] = field(default_factory=list)

    @property
    def cumulative_log_prob(self) -> float | None:
        """Sum of the tokens' log-probabilities; None where they were not asked for."""
        return sum(self.log_probs) if self.log_probs else None


@dataclass(frozen=True)
class RequestOutput:
    """One request and its output, as it stood when this was made.

    Attributes
    ----------
    request_id, prompt, prompt_token_ids
        The request; `prompt` is None where token ids were given.
    outputs
        One entry.
    text_diff
        What is new since the last output of the same iteration.
    finished
        Whether it has ended.
    timing
        Complete at the end.
    notes
        Sentences about options that have no effect.
    """

    request_id: int
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    text_diff: str
    finished: bool
    timing: RequestTiming
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The generated text so far."""
        return self.outputs[0].text


class Generation:
    """A request that runs: iterate over it (``for`` or ``async for``), wait for its `result`, or `cancel` it.

    Attributes
    ----------
    handle
        The same request at the level of tokens.
    """

    def __init__(self, handle: RequestHandle, prompt: str | None, tokenizer: Any) -> None:
        self.handle, self.prompt = handle, prompt
        self._tokenizer = tokenizer

    def result(self, timeout_s: float | None = None) -> RequestOutput:
        """Wait for the end and return the whole output; raises what went wrong with this request."""
        return self._whole(self.handle.result(timeout_s))

    async def aresult(self) -> RequestOutput:
        """Like `result`, for coroutines; also what ``await`` gives."""
        return self._whole(await self.handle.aresult())

    def __await__(self) -> Any:
        return self.aresult().__await__()

    def cancel(self) -> None:
        """End it at the next token boundary; what it made so far stays readable."""
        self.handle.cancel()

    abort = cancel

    def __iter__(self) -> Iterator[RequestOutput]:
        pieces = _Pieces(self)
        for new in self.handle:
            yield pieces.output(new)
        if (last := pieces.rest()) is not None:
            yield last

    async def __aiter__(self) -> AsyncIterator[RequestOutput]:
        pieces = _Pieces(self)
        async for new in self.handle:
            yield pieces.output(new)
        if (last := pieces.rest()) is not None:
            yield last

    def _whole(self, tokens: list[int]) -> RequestOutput:
        return self._output(tokens, self._text(tokens), "")

    def _text(self, tokens: list[int]) -> str:
        if self.handle.finish_reason == "end_id":
            tokens = tokens[:-1]
        if self._tokenizer is None:
            return " ".join(map(str, tokens))
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    def _output(self, tokens: list[int], text: str, diff: str) -> RequestOutput:
        handle = self.handle
        # Ended, and everything was shown: the last tokens may be handed on together with the end.
        finished = handle.finished and len(tokens) == len(handle.token_ids)
        completion = CompletionOutput(
            text, tokens, handle.finish_reason if finished else None, handle.log_probs if finished else []
        )
        return RequestOutput(
            handle.request_id,
            self.prompt,
            handle.prompt_token_ids,
            [completion],
            diff,
            finished,
            handle.timing,
            handle.notes,
        )


class _Pieces:
    """Turns new tokens of one iteration into outputs with the text that will not change any more."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        tokenizer = generation._tokenizer
        self._stream = None if tokenizer is None else TextStream(tokenizer)
        self._tokens: list[int] = []
        self._text = ""
        self._ended = False

    def output(self, new: list[int]) -> RequestOutput:
        self._tokens += new
        handle = self._generation.handle
        if self._stream is None:
            diff = "".join(f"{' ' if self._text or i else ''}{token}" for i, token in enumerate(new))
        else:
            diff = "".join(self._stream.put(token) for token in new)
            if handle.finished and len(self._tokens) == len(handle.token_ids):
                diff += self._stream.finish()
        self._text += diff
        output = self._generation._output(list(self._tokens), self._text, diff)
        self._ended = output.finished
        return output

    def rest(self) -> RequestOutput | None:
        """The output that tells the end, where the last tokens came before it was known (a cancel, say)."""
        if self._ended:
            return None
        diff = self._stream.finish() if self._stream is not None else ""
        self._text += diff
        return self._generation._output(list(self._tokens), self._text, diff)


class LLM:
    """An engine behind a running batch.

    Parameters
    ----------
    engine
        An `Engine`, or its folder. It must be paged: built with ``use_inflight_batching``. With one of several ranks
        every process makes the same calls and gets the same tokens.
    tokenizer
        A Hugging Face tokenizer, its folder, or False for none; None takes the one recorded with the engine.
    config
        Cache and steps.
    record
        Keep a timeline of the steps (``llm.batcher.timeline``).
    device
        Where to run it; None: the backend's default.
    options
        Fields of `InflightConfig`, over `config`: ``kv_cache_fraction``, ``max_running``, ``enable_block_reuse`` …

    Examples
    --------
    >>> with LLM("engine") as llm:                                                          # doctest: +SKIP
    ...     for output in llm.generate(["Born in north-east France,"], {"max_tokens": 8}):
    ...         print(output.text)
    """

    def __init__(
        self,
        engine: Engine | str | Path,
        tokenizer: Any = None,
        *,
        config: InflightConfig | None = None,
        record: bool = False,
        device: str | None = None,
        **options: Any,
    ) -> None:
        from ..engine import Engine

        self.engine = engine if isinstance(engine, Engine) else Engine.from_dir(engine, verify="load")
        ranks = self.engine.world_size
        if ranks > 1:
            check_world_size(ranks, str(self.engine.directory))
        self.tokenizer = _tokenizer(self.engine, tokenizer)
        self.config = (config or InflightConfig()).replace(**options)
        self.pool: PoolPlan
        self.batcher: InflightBatcher
        batcher = _batcher
        if ranks > 1:
            from .ranked_llm import ranked_batcher as batcher
        self.pool, self.batcher = batcher(self.engine, self.config, record=record, device=device)

    # ---- generating -----------------------------------------------------------------------------------------------

    def generate(self, prompts: Any, sampling_params: Any = None) -> Any:
        """Generate for one prompt or many, and wait for all.

        Parameters
        ----------
        prompts
            A text, a list of token ids, or a list of either.
        sampling_params
            A `SamplingConfig` or a table of its fields (also by the names of vLLM and TensorRT-LLM: ``max_tokens``,
            ``seed``, ``stop`` …), for all prompts; or a list with one a prompt.

        Returns
        -------
        RequestOutput or list of RequestOutput
            A list where a list of prompts was given, in its order.

        Raises
        ------
        RequestError
            Before anything runs, when a prompt or its sampling is wrong.
        """
        one = isinstance(prompts, str) or _is_token_ids(prompts)
        listed: list[Any] = [prompts] if one else list(prompts)
        params = _one_each(sampling_params, len(listed))
        settled = [self._request(prompt, given) for prompt, given in zip(listed, params, strict=True)]
        handles = self.batcher.submit_all(
            [(ids, keywords.pop("sampling_config", None), keywords) for _, ids, keywords in settled]
        )
        running = [
            Generation(handle, text, self.tokenizer) for handle, (text, _, _) in zip(handles, settled, strict=True)
        ]
        try:
            outputs = [generation.result() for generation in running]
        except BaseException:  # one failed, or the person interrupts: the others must not go on unseen
            for generation in running:
                generation.cancel()
            raise
        return outputs[0] if one else outputs

    def generate_async(self, prompt: Any, sampling_params: Any = None, *, streaming: bool = True) -> Generation:
        """Send one request and return at once.

        Parameters
        ----------
        prompt
            A text or a list of token ids.
        sampling_params
            As for `generate`.
        streaming
            Hand tokens on as they come, rather than at the end.
        """
        text, ids, keywords = self._request(prompt, sampling_params)
        handle = self.batcher.submit(ids, keywords.pop("sampling_config", None), streaming=streaming, **keywords)
        return Generation(handle, text, self.tokenizer)

    def _request(self, prompt: Any, params: Any) -> tuple[str | None, Any, dict[str, Any]]:
        keywords = sampling_of(params, self.tokenizer)
        if not isinstance(prompt, str):
            return None, prompt, keywords
        if self.tokenizer is None:
            raise RequestError(
                "The prompt is text, and there is no tokenizer.",
                where="prompt",
                remedy="Give LLM a tokenizer, or pass token ids.",
            )
        return prompt, encode_prompts(self.tokenizer, [prompt])[0], keywords

    # ---- housekeeping ---------------------------------------------------------------------------------------------

    @property
    def backend(self) -> str:
        """Name of the backend that runs the engine."""
        return self.batcher.runner.backend

    @property
    def limits(self) -> EngineLimits:
        """What a request may ask for."""
        return self.batcher.engine_limits

    def memory(self) -> dict[str, int]:
        """Bytes held by the engine and its cache."""
        return self.batcher.memory()

    def close(self) -> None:
        """Cancel what runs and free the engine."""
        self.batcher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LLM({self.engine.name}, backend {self.backend})\n{self.pool}"


def _batcher(
    engine: Engine, config: InflightConfig, *, record: bool, device: str | None
) -> tuple[PoolPlan, InflightBatcher]:
    executor = engine.executor(0, device=device)
    try:
        pool = planned_pool(engine, executor, config)
        runner = step_runner_for(executor, largest_step(engine, executor, config, pool))
    except BaseException:
        executor.close()
        raise
    limits = EngineLimits.from_configs(engine.config.pretrained_config, engine.config.build_config)
    return pool, InflightBatcher(runner, limits, reuse=config.enable_block_reuse, record=record)


def _tokenizer(engine: Engine, given: Any) -> Any:
    if given is False:
        return None
    if given is not None and not isinstance(given, str | Path):
        return given
    folder = Path(given).expanduser() if given is not None else engine.tokenizer_dir
    if folder is None:
        return None
    from ..intake.tokenizer import load_tokenizer

    return load_tokenizer(folder)


def _is_token_ids(prompts: Any) -> bool:
    if hasattr(prompts, "ndim"):
        return bool(prompts.ndim == 1)
    return isinstance(prompts, list | tuple) and bool(prompts) and isinstance(prompts[0], int)


def _one_each(params: Any, count: int) -> Sequence[Any]:
    if not isinstance(params, list | tuple):
        return [params] * count
    if len(params) != count:
        raise RequestError(
            f"{len(params)} sampling settings were given for {count} prompts.",
            where="sampling_params",
            remedy="Give one for all, or one a prompt.",
        )
    return params
