"""What an engine needs on the device, told before it is taken, and a sentence where it does not fit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...errors import EngineError
from .plan import LoadedPlan

MARGIN_BYTES = 256 << 20
"""Left free besides: contexts, cuBLAS-like workspaces and CUDA modules take up to about this much."""


@dataclass(frozen=True)
class MemoryPlan:
    """Device memory of one loaded rank, in bytes.

    Attributes
    ----------
    weights_bytes
        Weights that stay on the device.
    activation_bytes
        The memory that all contexts share: what the most demanding profile needs.
    scratch_bytes
        What weight streaming works with.
    streamed_bytes
        Weights that stay on the host and stream in.
    free_bytes
        What was free before activations were taken; the weights lie on the device by then.
    """

    weights_bytes: int
    activation_bytes: int
    scratch_bytes: int
    streamed_bytes: int
    free_bytes: int

    @property
    def streams(self) -> bool:
        """Whether part of the weights stays on the host."""
        return self.streamed_bytes > 0

    def sentence(self) -> str:
        """Return the numbers as one sentence."""
        streamed = f" ({_text(self.streamed_bytes)} more stream from the host)" if self.streams else ""
        scratch = f", scratch {_text(self.scratch_bytes)}" if self.scratch_bytes else ""
        return (
            f"Device memory: weights {_text(self.weights_bytes)}{streamed}, activations of all contexts together "
            f"{_text(self.activation_bytes)}{scratch}; {_text(self.free_bytes)} are free before activations and cache."
        )


def memory_plan(plans: Iterable[LoadedPlan], free_bytes: int, *, streaming: bool) -> MemoryPlan:
    """Return what the loaded plans hold and will take.

    Parameters
    ----------
    plans
        Plans whose weight-streaming budget, if any, is set.
    free_bytes
        Free device memory now.
    streaming
        Whether the plans were built for weight streaming.
    """
    plans = list(plans)
    streamed = sum(_streamed_bytes(plan.engine) for plan in plans) if streaming else 0
    scratch = sum(int(plan.engine.weight_streaming_scratch_memory_size) for plan in plans) if streamed else 0
    return MemoryPlan(
        weights_bytes=sum(plan.weights_bytes for plan in plans) - streamed,
        activation_bytes=max((plan.memory_bytes for plan in plans), default=0),
        scratch_bytes=scratch,
        streamed_bytes=streamed,
        free_bytes=free_bytes,
    )


def refuse_too_large(plan: MemoryPlan, gpu: str, where: str) -> None:
    """Raise `EngineError` when the activations do not fit into what is free beside the weights."""
    needed = plan.activation_bytes + plan.scratch_bytes
    if needed > plan.free_bytes:
        raise EngineError(
            f"The engine needs {_text(needed)} for activations beside its weights ({_text(plan.weights_bytes)}), and "
            f"{_text(plan.free_bytes)} are free on {gpu}.",
            where=where,
            remedy="End other programs on this GPU, build with a smaller max_batch_size or max_input_len, stream "
            "weights (weight_streaming), or use more ranks.",
        )


def refuse_too_large_files(file_bytes: int, free_bytes: int, gpu: str, where: str) -> None:
    """Raise `EngineError` when the weights alone, which are about the size of their files, cannot fit."""
    if file_bytes + MARGIN_BYTES > free_bytes:
        raise EngineError(
            f"The engine's weights take about {_text(file_bytes)}, and {_text(free_bytes)} are free on {gpu}.",
            where=where,
            remedy="End other programs on this GPU, quantize the model, build with weight_streaming, or use more "
            "ranks.",
        )


def _streamed_bytes(engine: Any) -> int:
    return max(0, int(engine.streamable_weights_size) - int(engine.weight_streaming_budget_v2))


def _text(nbytes: int) -> str:
    value, unit = float(nbytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.2f} {unit}"
