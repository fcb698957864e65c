"""Stream the same prompts from several generators, at once or in turn, and find where they part."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..errors import EvaluationError, TrtbenchError
from ..specs import SamplingConfig
from .compare import with_tokenizers_ids
from .compare_result import SideMemory
from .divergence import Divergence, divergence_at, first_divergence
from .rss import peak_rss_delta_bytes
from .streams_result import MODES, Streamed, StreamedPrompt, StreamSide, StreamsResult

MAX_SIDES = 4  # Hugging Face and three engines: more columns would not be read


@dataclass(frozen=True, kw_only=True)
class StreamSource:
    """One generator: a `ModelRunner` or an `HFRunner`, and what is known of it."""

    label: str
    runner: Any
    dtype: str | None = None
    quantization: str | None = None
    engine_dir: str | None = None


@dataclass(frozen=True)
class StreamEvent:
    """Something that happened in a stream.

    Attributes
    ----------
    kind
        ``"began"``, ``"token"`` or ``"ended"``.
    prompt, side
        Which stream.
    token, piece
        The new token and the text that is now certain.
    since_ns
        Nanoseconds from this side's call.
    stream
        The whole stream, once it has ended.
    """

    kind: Literal["began", "token", "ended"]
    prompt: int
    side: int
    token: int = -1
    piece: str = ""
    since_ns: int = 0
    stream: Streamed | None = None


def stream_side_by_side(
    sources: Sequence[StreamSource],
    prompts: Sequence[Sequence[int]],
    sampling: SamplingConfig | None = None,
    *,
    tokenizer: Any | None = None,
    texts: Sequence[str | None] | None = None,
    mode: str = "in turn",
    on_event: Callable[[StreamEvent], None] | None = None,
    stop: threading.Event | None = None,
    model: str | None = None,
    name: str | None = None,
) -> StreamsResult:
    """Generate with every source, prompt by prompt at batch 1, handing on each token as it comes.

    Parameters
    ----------
    sources
        One to four; the first is what the others are held against.
    prompts
        Token ids.
    sampling
        For all sides; None: greedy. With sampling, all draw from the same random numbers.
    tokenizer
        Turns tokens into text.
    texts
        The prompts' texts, to be shown.
    mode
        ``"in turn"``: one side after the other, each with the machine to itself. ``"at once"``: together, which is
        what a person wants to see and lengthens every side's times.
    on_event
        Called from the streaming threads; what it takes is part of the measured gaps, so it must be quick.
    stop
        Ends all streams at their next token when set.
    model, name
        Labels of the result.

    Raises
    ------
    EvaluationError
        For no or too many sources, an unknown mode, or sources of different vocabularies.
    """
    _check(sources, prompts, mode)
    stop = stop or threading.Event()
    sampling = with_tokenizers_ids(sampling or SamplingConfig(), tokenizer)
    run = _Run(list(sources), sampling, tokenizer, on_event or (lambda event: None), stop)
    streamed: list[StreamedPrompt] = []
    growth: list[int | None] = [None] * len(sources)
    for number, tokens in enumerate(prompts):
        if stop.is_set():
            break
        streams, grown = run.prompt(number, list(tokens), mode)
        growth = [old if old is not None else new for old, new in zip(growth, grown, strict=True)]
        text = texts[number] if texts is not None else None
        streamed.append(StreamedPrompt(prompt=text, prompt_tokens=list(tokens), streams=streams))
    backends = dict.fromkeys(source.runner.backend for source in sources)
    return StreamsResult(
        backend=" + ".join(backends),
        model=model or getattr(sources[-1].runner, "name", None),
        name=name,
        spec={"sampling": sampling.to_dict(), "mode": mode},
        sides=[_side(source, grown) for source, grown in zip(sources, growth, strict=True)],
        prompts=streamed,
        mode=mode,
        stopped=stop.is_set(),
    )


class _Run:
    """One call: the sources, what they are asked, and whom to tell."""

    def __init__(
        self,
        sources: list[StreamSource],
        sampling: SamplingConfig,
        tokenizer: Any | None,
        tell: Callable[[StreamEvent], None],
        stop: threading.Event,
    ) -> None:
        self.sources, self.sampling, self.tokenizer = sources, sampling, tokenizer
        self.tell, self.stop = tell, stop

    def prompt(self, number: int, tokens: list[int], mode: str) -> tuple[list[Streamed], list[int | None]]:
        """Return every side's stream, with divergences, and what each added to the process's memory where known."""
        streams: list[Streamed | None] = [None] * len(self.sources)
        growth: list[int | None] = [None] * len(self.sources)
        began = time.perf_counter_ns()

        def work(side: int) -> None:
            streams[side] = self._stream(number, side, tokens, began)

        if mode == "at once":
            threads = [
                threading.Thread(target=work, args=(side,), name=f"stream-{side}", daemon=True)
                for side in range(len(self.sources))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        else:
            for side in range(len(self.sources)):
                growth[side] = peak_rss_delta_bytes(lambda side=side: work(side))  # type: ignore[misc]
        done = [stream or Streamed() for stream in streams]
        for side in range(1, len(done)):
            where = self._divergence(tokens, side, done[0], done[side])
            done[side] = replace(done[side], divergence=where)
        for side, stream in enumerate(done):
            self.tell(StreamEvent("ended", number, side, stream=stream))
        return done, growth

    def _stream(self, number: int, side: int, tokens: list[int], began: int) -> Streamed:
        from ..runtime.streaming import TextStream
        from ..runtime.text import new_tokens_of

        known = self.tokenizer
        text = TextStream(known, tokens, skip_special_tokens=False) if known is not None else None
        made: list[int] = []
        pieces: list[str] = []
        stamps: list[int] = []
        reason: str | None = None
        self.tell(StreamEvent("began", number, side))
        called = time.perf_counter_ns()
        try:
            outputs = self.sources[side].runner.generate([tokens], self.sampling, streaming=True)
            for output in outputs:
                now = time.perf_counter_ns() - called
                for token in new_tokens_of(output, 0, with_end=True)[len(made) :]:
                    made.append(token)
                    stamps.append(now)
                    pieces.append(text.put(token) if text is not None else f" {token}")
                    self.tell(StreamEvent("token", number, side, token, pieces[-1], now))
                reason = output["finish_reasons"][0][0]
                if self.stop.is_set():
                    outputs.close()
                    break
        except TrtbenchError as error:
            return Streamed(began_ns=called - began, error=str(error))
        except Exception as error:  # whatever it is, it must not cost the other sides their streams
            return Streamed(began_ns=called - began, error=f"{type(error).__name__}: {error}")
        if text is not None and pieces and (rest := text.finish()):
            pieces[-1] += rest
        return Streamed(tokens=made, pieces=pieces, token_ns=stamps, began_ns=called - began, finish_reason=reason)

    def _divergence(self, prompt: list[int], side: int, first: Streamed, other: Streamed) -> Divergence | None:
        """Return the first differing token, weighed by both sides' logits after the tokens that they share."""
        if first.error is not None or other.error is not None:
            return None
        position = first_divergence(other.tokens, first.tokens)
        if position is None:
            return None
        ended = [s for s in (first, other) if len(s.tokens) == position]
        if any(stream.finish_reason is None for stream in ended):
            return None  # it was stopped there, which is no difference
        shared = prompt + first.tokens[:position]
        (a,) = self.sources[side].runner.logits_of([shared], [len(shared) - 1])
        (b,) = self.sources[0].runner.logits_of([shared], [len(shared) - 1])
        return divergence_at(position, other.tokens, first.tokens, a[0], b[0], self.tokenizer)


def _check(sources: Sequence[StreamSource], prompts: Sequence[Sequence[int]], mode: str) -> None:
    if not 1 <= len(sources) <= MAX_SIDES:
        raise EvaluationError(
            f"{len(sources)} generators cannot be shown side by side.",
            where="sources",
            remedy=f"Give 1 to {MAX_SIDES}: Hugging Face and up to three engines.",
        )
    if mode not in MODES:
        raise EvaluationError(f"There is no mode {mode!r}.", where="mode", remedy="Use 'in turn' or 'at once'.")
    if not prompts:
        raise EvaluationError("There are no prompts to stream.", where="prompts", remedy="Give a list of texts.")
    sizes = {source.label: source.runner.vocab_size for source in sources}
    if len(set(sizes.values())) > 1:
        raise EvaluationError(
            "The sides have different vocabularies: " + ", ".join(f"{k} {v}" for k, v in sizes.items()) + ".",
            remedy="Set sides of one model beside each other.",
        )


def _side(source: StreamSource, grown: int | None) -> StreamSide:
    held = source.runner.memory()
    return StreamSide(
        label=source.label,
        backend=source.runner.backend,
        dtype=source.dtype or getattr(source.runner, "dtype", None),
        quantization=source.quantization,
        engine_dir=source.engine_dir,
        memory=SideMemory(
            weights_bytes=held.get("weights_bytes"),
            kv_cache_bytes=held.get("kv_cache_bytes"),
            process_rss_peak_delta_bytes=grown,
        ),
    )
