"""How much of an engine's weights stays on the device, where the engine was built so that they may stream in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import EngineError
from .device_memory import memory_plan
from .executor import TensorRTExecutor

AUTOMATIC = "auto"


def apply_budget(engines: Sequence[Any], budget: int | str | None, *, where: str) -> None:
    """Give engines their weight-streaming budget; none of them may have a context yet.

    Parameters
    ----------
    engines
        Deserialized plans that were built for weight streaming.
    budget
        Bytes of weights to keep on the device, over all plans in proportion, or a share of those that can stream
        (``"25%"``); ``"auto"`` leaves it to TensorRT; None keeps all there (no streaming).
    where
        The engine folder.

    Raises
    ------
    EngineError
        For a budget that is neither bytes nor a share.
    """
    percent = _percent(budget)
    known = budget is None or budget == AUTOMATIC or percent is not None
    if not known and (not isinstance(budget, int) or isinstance(budget, bool)):
        raise EngineError(
            f"{budget!r} is no weight-streaming budget.",
            where="weight_streaming_budget",
            remedy="Give bytes (0 streams as much as possible), a share ('25%'), 'auto', or None to keep all weights "
            "on the GPU.",
        )
    if isinstance(budget, int) and budget < 0:
        raise EngineError(
            f"A weight-streaming budget of {budget} bytes is not possible.", where=where, remedy="Give 0 or more."
        )
    sizes = [int(engine.streamable_weights_size) for engine in engines]
    for engine, size in zip(engines, sizes, strict=True):
        if budget is None:
            share = size
        elif budget == AUTOMATIC:
            share = int(engine.get_weight_streaming_automatic_budget())
        elif percent is not None:
            share = int(size * percent / 100)
        else:
            share = min(size, int(budget) * size // max(1, sum(sizes)))
        engine.weight_streaming_budget_v2 = share


def _percent(budget: int | str | None) -> float | None:
    """Return the number of ``"25%"``, None for what is no share from 0 to 100 %."""
    if not isinstance(budget, str) or not budget.endswith("%"):
        return None
    try:
        percent = float(budget[:-1])
    except ValueError:
        return None
    return percent if 0 <= percent <= 100 else None


def refuse_budget(budget: Any, where: str) -> None:
    """Raise `EngineError` when a budget is asked for and the engine was not built for weight streaming."""
    if budget is not None:
        raise EngineError(
            "The engine was not built for weight streaming.",
            where=where,
            remedy="Build it with weight_streaming, or leave weight_streaming_budget out.",
        )


def set_budget(executor: TensorRTExecutor, budget: int | str | None) -> None:
    """Change the budget of a loaded engine; its contexts and graphs are made anew.

    While weights stream, runs wait for the host and no CUDA graph is used.

    Raises
    ------
    EngineError
        For a budget that cannot be, or an engine that was not built for it.
    """
    where = str(executor.directory)
    plans = executor.plans()
    if not executor.layout.weight_streaming:
        refuse_budget(budget if budget is not None else 0, where)

    def change() -> Any:
        apply_budget([plan.engine for plan in plans], budget, where=where)
        return memory_plan(plans, executor.cuda.free_bytes(), streaming=True)

    executor.restart(change)
