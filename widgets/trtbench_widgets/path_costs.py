"""What each step of the path will cost, in words, from the planner's prediction and the step's choices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trtbench_lab.engine.present import bytes_text, seconds_text

from .path_steps import Settings, quantizes

_CONVERT_BYTES_PER_S = 1.0e9  # the planner's figure


def costs_ahead(settings: Settings, plan: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return step → what lies ahead: time, memory, disk.

    Parameters
    ----------
    settings
        Step → field → value.
    plan
        What is kept of the planner's prediction: bytes, `build_s`, `memory`, `predictions`.
    """
    weights, engine = bytes_text(plan["checkpoint_bytes"]), bytes_text(plan["engine_bytes"])
    writing = seconds_text(plan["checkpoint_bytes"] / _CONVERT_BYTES_PER_S)
    build_s, runs = plan.get("build_s"), int(settings["benchmark"]["num_runs"]) + 2
    return {
        "model": [f"{bytes_text(plan['download_bytes'])} of weights to read or fetch"],
        "convert": [f"about {writing} of writing", "memory of one tensor at a time", f"{weights} of disk"],
        "plugins": ["nothing; it is paid at the build"],
        "quantization": _quantization_cost(settings, plan),
        "build": [
            f"about {seconds_text(build_s)}" if build_s else "time not known",
            f"at least {weights} of memory",
            f"{engine} of disk",
        ],
        "run": _running_cost(settings, plan),
        "compare": _running_cost(settings, plan, sides=2),
        "benchmark": _running_cost(settings, plan, sides=2, runs=runs),
    }


def _quantization_cost(settings: Settings, plan: Mapping[str, Any]) -> list[str]:
    if not quantizes(settings):
        return ["nothing"]
    return [
        "time grows with the model, and with calibration",
        f"where it calibrates, at least {bytes_text(plan['download_bytes'])} of memory",
        f"{bytes_text(plan['checkpoint_bytes'])} of disk",
    ]


def _running_cost(settings: Settings, plan: Mapping[str, Any], sides: int = 1, runs: int = 1) -> list[str]:
    memory = sum(part["bytes"] for part in plan.get("memory", []))
    words = [f"{bytes_text(memory)} of memory"]
    for first in (plan.get("predictions") or [])[:1]:
        tokens = int(settings["run"]["max_new_tokens"])
        seconds = (first["ttft_ms"] + tokens * first["itl_ms"]) / 1e3 * sides * runs
        words.insert(0, f"about {seconds_text(max(seconds, 0.1))} of work after loading")
    return words
