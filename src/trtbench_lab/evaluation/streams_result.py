"""What several generators leave behind that streamed the same prompts beside each other: enough to replay it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from statistics import median
from typing import ClassVar

from ..results import Result, Table
from .compare_result import SideMemory
from .divergence import Divergence
from .streams_html import stream_block_html

MODES = {
    "in turn": "in turn: each side had the machine to itself",
    "at once": "at once: the sides shared the machine, so their times are longer than each one's own",
}


@dataclass(frozen=True, kw_only=True)
class StreamSide:
    """Who streamed.

    Attributes
    ----------
    label
        As people tell it from the others.
    backend
        ``"huggingface"``, ``"onnxruntime"``, ``"torch"`` or ``"tensorrt"``.
    dtype, quantization, engine_dir
        Facts, None where they do not apply.
    memory
        Weights and cache; growth of the process only where the sides ran in turn, because it cannot be told apart
        otherwise.
    """

    label: str
    backend: str
    dtype: str | None = None
    quantization: str | None = None
    engine_dir: str | None = None
    memory: SideMemory


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """One side's stream of one prompt.

    Attributes
    ----------
    tokens, pieces
        New tokens, the end token included, and the text that each made certain (empty within a character).
    token_ns
        Nanoseconds from this side's call to each token in the caller's hands.
    began_ns
        When this side was called, from the beginning of the prompt.
    finish_reason
        ``"end_id"``, ``"stop_words"``, ``"length"``; None where it was stopped or failed.
    divergence
        First token that differs from the first side's; None where none does. Its ``hf_…`` fields are the first side's.
    error
        Why it failed, or None.
    """

    tokens: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    token_ns: list[int] = field(default_factory=list)
    began_ns: int = 0
    finish_reason: str | None = None
    divergence: Divergence | None = None
    error: str | None = None

    @property
    def text(self) -> str:
        """All pieces."""
        return "".join(self.pieces)

    @property
    def ttft_ms(self) -> float | None:
        """Call to first token; None without one."""
        return self.token_ns[0] / 1e6 if self.token_ns else None

    @property
    def latency_ms(self) -> float | None:
        """Call to last token."""
        return self.token_ns[-1] / 1e6 if self.token_ns else None

    @property
    def gaps_ms(self) -> list[float]:
        """Between consecutive tokens."""
        return [(b - a) / 1e6 for a, b in zip(self.token_ns, self.token_ns[1:], strict=False)]

    @property
    def tpot_ms(self) -> float | None:
        """Mean gap after the first token; None with fewer than two."""
        gaps = self.gaps_ms
        return sum(gaps) / len(gaps) if gaps else None


@dataclass(frozen=True, kw_only=True)
class StreamedPrompt:
    """One prompt through every side, in the order of `StreamsResult.sides`."""

    prompt: str | None
    prompt_tokens: list[int]
    streams: list[Streamed]


@dataclass(frozen=True, kw_only=True)
class StreamsResult(Result):
    """Several generators on the same prompts, token by token; the first side is what the others are held against.

    Attributes
    ----------
    sides
        Who streamed.
    prompts
        What each made of each prompt.
    mode
        ``"in turn"`` or ``"at once"``; times of different modes are not comparable.
    stopped
        Whether a person stopped it before its end.
    """

    kind: ClassVar[str] = "streams"

    sides: list[StreamSide]
    prompts: list[StreamedPrompt]
    mode: str
    stopped: bool = False

    @property
    def title(self) -> str:
        words = [self.name, " | ".join(side.label for side in self.sides), self.mode]
        return "Side by side: " + " · ".join(word for word in words if word)

    @property
    def metrics(self) -> dict[str, int | float | None]:
        flat: dict[str, int | float | None] = {"prompts": len(self.prompts)}
        for i, key in enumerate(self._keys()):
            streams = [prompt.streams[i] for prompt in self.prompts]
            made = [stream for stream in streams if stream.token_ns]
            seconds = sum(stream.latency_ms or 0.0 for stream in made) / 1e3
            tokens = sum(len(stream.tokens) for stream in made)
            flat[f"{key}.ttft_ms"] = _median([stream.ttft_ms for stream in made])
            flat[f"{key}.tpot_ms"] = _median([stream.tpot_ms for stream in made])
            flat[f"{key}.latency_ms"] = _median([stream.latency_ms for stream in made])
            flat[f"{key}.tokens_per_sec"] = tokens / seconds if seconds else None
            flat[f"{key}.output_tokens"] = tokens
            if i:
                flat[f"{key}.prompts_diverged"] = sum(stream.divergence is not None for stream in streams)
            flat[f"{key}.weights_bytes"] = self.sides[i].memory.weights_bytes
        return flat

    def tables(self) -> list[Table]:
        """The sides' times, then where each parts from the first."""
        numbers = self.metrics
        tags = ("ttft_ms", "tpot_ms", "tokens_per_sec", "output_tokens", "weights_bytes")
        rows = [
            (side.label, side.backend, *(numbers[f"{key}.{tag}"] for tag in tags))
            for side, key in zip(self.sides, self._keys(), strict=True)
        ]
        note = (
            f"Streamed {MODES[self.mode]}. One run a prompt, medians over {len(self.prompts)} prompt(s), batch 1; a "
            "token counts once it is in the reader's hands."
        )
        columns = ("side", "backend", "TTFT (ms)", "TPOT (ms)", "tokens/s", "tokens", "weights (bytes)")
        return [Table(columns, rows, note=note), *self._divergences()]

    def _divergences(self) -> list[Table]:
        rows = []
        for number, prompt in enumerate(self.prompts):
            for side, stream in zip(self.sides[1:], prompt.streams[1:], strict=True):
                where = stream.divergence
                if where is not None:
                    rows.append((number, side.label, where.position, where.engine_margin, where.hf_margin))
        first = self.sides[0].label
        columns = ("prompt", "side", "first differing token", "its margin", f"margin of {first}")
        note = "Margin: largest minus second largest logit there; a small one is a near tie."
        return [Table(columns, rows, title=f"Where they part from {first}", note=note)] if rows else []

    def _repr_html_(self) -> str:
        blocks = "".join(stream_block_html(i, prompt, self.sides) for i, prompt in enumerate(self.prompts))
        return super()._repr_html_() + blocks

    def __repr__(self) -> str:
        lines = [super().__repr__()]
        for number, prompt in enumerate(self.prompts):
            lines.append(f"Prompt {number}: {prompt.prompt if prompt.prompt is not None else prompt.prompt_tokens}")
            for side, stream in zip(self.sides, prompt.streams, strict=True):
                said = stream.error or stream.text or " ".join(map(str, stream.tokens))
                lines.append(f"  {side.label}: {said}")
        return "\n".join(lines)

    def _keys(self) -> list[str]:
        """One word a side, by which its metrics begin."""
        keys: list[str] = []
        for side in self.sides:
            word = re.sub(r"[^A-Za-z0-9_-]+", "_", side.label).strip("_") or "side"
            keys.append(word if word not in keys else f"{word}_{len(keys)}")
        return keys


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


__all__ = ["MODES", "StreamSide", "Streamed", "StreamedPrompt", "StreamsResult"]
