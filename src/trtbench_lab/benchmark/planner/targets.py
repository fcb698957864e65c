"""Targets: what a person wants to reach, and the cheapest combination that is predicted to reach it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from ...errors import SpecError, did_you_mean
from .gpus import Gpu
from .result import PlanChoice, PlanResult

MOST, LEAST = "at most", "at least"
TARGETS = {
    "itl_ms": MOST,
    "ttft_ms": MOST,
    "latency_ms": MOST,
    "tokens_per_sec": LEAST,
    "memory_gib": MOST,
    "gpus": MOST,
}
"""What a target may be stated for, and in which direction."""

# In the order of what they change: nothing, then fewer bits, calibrated before uncalibrated at the same width.
FORMATS = ("none", "int8_wo", "fp8", "int4_awq", "int4_wo")
SIZES = (1, 2, 4, 8)


def target_from(text: str | Mapping[str, float] | None) -> dict[str, float]:
    """Read ``itl_ms=5 ttft_ms=200``, separated by spaces, commas or semicolons.

    Raises
    ------
    SpecError
        For an unknown name, or a value that is no number above 0.
    """
    if text is None:
        return {}
    pairs: Iterable[tuple[str, object]]
    if isinstance(text, str):
        words = [word for word in re.split(r"[\s,;]+", text.strip()) if word]
        pairs = [(word.partition("=")[0], word.partition("=")[2]) for word in words]
    else:
        pairs = list(text.items())
    found = {}
    for name, value in pairs:
        if name not in TARGETS:
            raise SpecError(
                f"There is no target {name!r}.", where="target", remedy=did_you_mean(name, list(TARGETS), limit=8)
            )
        try:
            found[name] = float(str(value))
        except ValueError:
            found[name] = 0.0
        if not found[name] > 0 or found[name] == float("inf"):
            raise SpecError(
                f"The target {name}={value} is no number above 0.",
                where="target",
                remedy=f"Write {name}=5, for example.",
            )
    return found


def weigh(
    target: Mapping[str, float],
    gpus: Iterable[Gpu],
    combinations: Iterable[tuple[int, int, str]],
    planned: Callable[[Gpu, int, int, str], PlanResult | None],
) -> list[PlanChoice]:
    """Return every combination that can be divided so, those that meet the target first, cheapest first.

    Parameters
    ----------
    combinations
        (tp, pp, quantization) to try on each GPU.
    planned
        Makes the plan of one combination; None where the model cannot be divided or does not run so.
    """
    choices = []
    for gpu in gpus:
        for tp, pp, quantization in combinations:
            found = planned(gpu, tp, pp, quantization)
            if found is not None:
                choices.append((gpu, _choice(found, quantization, target)))
    order = {quantization: index for index, quantization in enumerate(FORMATS)}

    def rank(pair: tuple[Gpu, PlanChoice]) -> tuple[object, ...]:
        gpu, choice = pair
        cost = choice.gpus * gpu.memory_bytes * gpu.bandwidth_bytes_per_s  # bigger and faster boards cost more
        return (not choice.meets, not choice.fits, cost, order.get(choice.quantization, len(FORMATS)), choice.itl_ms)

    return [choice for _, choice in sorted(choices, key=rank)]


def _choice(plan: PlanResult, quantization: str, target: Mapping[str, float]) -> PlanChoice:
    item = plan.prediction
    values = {
        "itl_ms": item.itl_ms,
        "ttft_ms": item.ttft_ms,
        "latency_ms": item.latency_ms,
        "tokens_per_sec": item.tokens_per_sec,
        "memory_gib": plan.memory_bytes / 2**30,
        "gpus": float(plan.tp_size * plan.pp_size),
    }
    missed = [] if plan.fits else [f"needs {plan.memory_bytes / 2**30:,.1f} of {plan.capacity_bytes / 2**30:,.1f} GiB"]
    for name, limit in target.items():
        if values[name] > limit if TARGETS[name] == MOST else values[name] < limit:
            missed.append(f"{name} {values[name]:,.4g}")
    return PlanChoice(
        gpu=plan.gpu,
        tp_size=plan.tp_size,
        pp_size=plan.pp_size,
        quantization=quantization,
        itl_ms=item.itl_ms,
        ttft_ms=item.ttft_ms,
        tokens_per_sec=item.tokens_per_sec,
        memory_bytes=plan.memory_bytes,
        fits=plan.fits,
        meets=not missed,
        why_not=", ".join(missed),
    )
