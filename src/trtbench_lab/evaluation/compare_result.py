"""What a comparison of an engine with Hugging Face leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import ClassVar

from ..results import Result, Table
from .divergence import Divergence, LogitDifference
from .side_by_side import prompt_block_html, prompt_block_plain


@dataclass(frozen=True, kw_only=True)
class SideOutput:
    """What one side made of one prompt.

    Attributes
    ----------
    tokens
        New tokens; the end token is the last of them where there was one.
    text
        Their text without special tokens; None without a tokenizer.
    finish_reason
        ``"end_id"``, ``"stop_words"`` or ``"length"``.
    token_ns
        For each timed run, nanoseconds from the call to each token.
    """

    tokens: list[int]
    text: str | None
    finish_reason: str | None
    token_ns: list[list[int]]

    @property
    def latency_ms(self) -> float:
        """Median over the runs of call to last token."""
        return median(run[-1] for run in self.token_ns) / 1e6

    @property
    def ttft_ms(self) -> float:
        """Median over the runs of call to first token."""
        return median(run[0] for run in self.token_ns) / 1e6

    @property
    def tpot_ms(self) -> float | None:
        """Median over the runs of (last − first token) / (tokens − 1); None with one token."""
        if len(self.token_ns[0]) < 2:
            return None
        return median((run[-1] - run[0]) / (len(run) - 1) for run in self.token_ns) / 1e6


@dataclass(frozen=True, kw_only=True)
class PromptComparison:
    """One prompt through both sides.

    Attributes
    ----------
    prompt, prompt_tokens
        Text (None when token ids were given) and token ids.
    engine, hf
        The outputs.
    divergence
        The first token that differs; None when all are equal.
    logits
        Differences of the raw logits along Hugging Face's tokens (both sides see those, whatever they chose).
    """

    prompt: str | None
    prompt_tokens: list[int]
    engine: SideOutput
    hf: SideOutput
    divergence: Divergence | None
    logits: LogitDifference

    @property
    def equal_tokens(self) -> int:
        """New tokens before the first divergence."""
        return len(self.hf.tokens) if self.divergence is None else self.divergence.position


@dataclass(frozen=True, kw_only=True)
class SideMemory:
    """Memory of one side, in bytes.

    Attributes
    ----------
    weights_bytes
        The weights, as that side stores them; None where it does not tell.
    kv_cache_bytes
        The engine's cache; Hugging Face grows its own inside the peak.
    process_rss_peak_delta_bytes
        What the process's resident set grew by, at most, during the first untimed run; None without one.
    """

    weights_bytes: int | None
    kv_cache_bytes: int | None
    process_rss_peak_delta_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class CompareResult(Result):
    """The comparison of an engine with Hugging Face; `backend` is the engine's.

    Attributes
    ----------
    prompts
        One comparison a prompt.
    hf_model, hf_dtype
        The other side.
    engine_memory, hf_memory
        What each holds.
    num_runs, warm_up
        Timed and untimed repetitions of each prompt on each side, taken in turns.
    notes
        Options of the request that had no effect.
    """

    kind: ClassVar[str] = "compare"

    prompts: list[PromptComparison]
    hf_model: str | None
    hf_dtype: str
    engine_memory: SideMemory
    hf_memory: SideMemory
    num_runs: int = 1
    warm_up: int = 1
    notes: list[str] = field(default_factory=list)

    @property
    def num_diverged(self) -> int:
        """Prompts whose tokens differ."""
        return sum(comparison.divergence is not None for comparison in self.prompts)

    @property
    def metrics(self) -> dict[str, int | float | None]:
        engine, hf = [c.engine for c in self.prompts], [c.hf for c in self.prompts]
        hf_tokens = sum(len(side.tokens) for side in hf)
        positions = sum(c.logits.positions for c in self.prompts)
        return {
            "prompts": len(self.prompts),
            "prompts_diverged": self.num_diverged,
            "token_agreement": 100.0 * sum(c.equal_tokens for c in self.prompts) / hf_tokens,
            "top1_agreement": sum(c.logits.top1_agreement * c.logits.positions for c in self.prompts) / positions,
            "max_abs_logit_difference": max(c.logits.max_abs for c in self.prompts),
            "mean_abs_logit_difference": sum(c.logits.mean_abs * c.logits.positions for c in self.prompts) / positions,
            **_times("engine", engine),
            **_times("hf", hf),
            # Of latency per token: the sides may have made different numbers of tokens.
            "speedup": _per_token_ms(hf) / _per_token_ms(engine),
            "engine_weights_bytes": self.engine_memory.weights_bytes,
            "hf_weights_bytes": self.hf_memory.weights_bytes,
            "engine_kv_cache_bytes": self.engine_memory.kv_cache_bytes,
            "engine_process_rss_peak_delta_bytes": self.engine_memory.process_rss_peak_delta_bytes,
            "hf_process_rss_peak_delta_bytes": self.hf_memory.process_rss_peak_delta_bytes,
        }

    def tables(self) -> list[Table]:
        """The sides against each other, then one row a prompt."""
        return [self._sides_table(), self._prompts_table()]

    def _sides_table(self) -> Table:
        m = self.metrics
        names = {
            "ttft_ms": "time to first token (ms)",
            "tpot_ms": "time per output token (ms)",
            "latency_ms": "latency (ms)",
            "tokens_per_sec": "output tokens per second",
            "weights_bytes": "weights (bytes)",
            "process_rss_peak_delta_bytes": "peak resident memory above the start (bytes)",
        }
        rows = [(label, m[f"engine_{tag}"], m[f"hf_{tag}"]) for tag, label in names.items()]
        note = (
            f"Medians of {self.num_runs} run(s) a prompt, means over {len(self.prompts)} prompt(s), batch 1. "
            f"Per output token the engine is {m['speedup']:.2f} × as fast."
        )
        return Table(columns=("", f"engine ({self.backend})", f"Hugging Face ({self.hf_dtype})"), rows=rows, note=note)

    def _prompts_table(self) -> Table:
        rows = []
        for i, c in enumerate(self.prompts):
            where = c.divergence
            rows.append(
                (
                    i,
                    len(c.engine.tokens),
                    len(c.hf.tokens),
                    "none" if where is None else f"token {where.position}",
                    None if where is None else where.engine_margin,
                    None if where is None else where.hf_margin,
                    c.logits.max_abs,
                    c.logits.mean_abs,
                    c.logits.top1_agreement,
                )
            )
        columns = (
            "prompt",
            "engine tokens",
            "HF tokens",
            "first divergence",
            "engine margin",
            "HF margin",
            "max |Δ logit|",
            "mean |Δ logit|",
            "top-1 agreement (%)",
        )
        note = "Margin: largest minus second largest logit where the sides part; a small one is a near tie."
        return Table(columns=columns, rows=rows, title="Prompts", note=note)

    def __repr__(self) -> str:
        blocks = [prompt_block_plain(i, c, self.backend) for i, c in enumerate(self.prompts)]
        return "\n\n".join([super().__repr__(), *blocks, *self.notes])

    def _repr_html_(self) -> str:
        return super()._repr_html_() + "".join(
            prompt_block_html(i, c, self.backend) for i, c in enumerate(self.prompts)
        )


def _times(side: str, outputs: list[SideOutput]) -> dict[str, float | None]:
    tpots = [output.tpot_ms for output in outputs if output.tpot_ms is not None]
    return {
        f"{side}_ttft_ms": sum(output.ttft_ms for output in outputs) / len(outputs),
        f"{side}_tpot_ms": sum(tpots) / len(tpots) if tpots else None,
        f"{side}_latency_ms": sum(output.latency_ms for output in outputs) / len(outputs),
        f"{side}_tokens_per_sec": 1e3 / _per_token_ms(outputs),
    }


def _per_token_ms(outputs: list[SideOutput]) -> float:
    return sum(output.latency_ms for output in outputs) / sum(len(output.tokens) for output in outputs)
