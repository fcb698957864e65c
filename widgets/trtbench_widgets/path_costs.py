"""What each step of the path will cost, in words: time, memory, disk, from the planner's prediction and the choices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trtbench_lab.engine.present import bytes_text, seconds_text
from trtbench_lab.specs import BenchConfig

from .path_steps import Settings, quantizes

_CONVERT_BYTES_PER_S = 1.0e9  # the planner's figure
_PLANNED_INPUT = 512  # tokens of the prompt that the planner's time to the first token is of
_LEAST_S = 0.1
_NO_DISK = "no disk but a line of history"


def costs_unplanned(settings: Settings) -> dict[str, str]:
    """Return step → what lies ahead, for the steps whose cost does not depend on the model."""
    kept = {} if quantizes(settings) else {"quantization": "nothing: the weights stay as they are"}
    return {
        "model": "some seconds, little memory, no disk: config.json alone is read",
        "plugins": "nothing; it is paid at the build",
        **kept,
    }


def costs_ahead(settings: Settings, plan: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return step → what lies ahead: time, memory, disk.

    Parameters
    ----------
    settings
        Step → field → value.
    plan
        What is kept of the planner's prediction: bytes, `build_s`, `memory`, `predictions`.
    """
    read, engine = bytes_text(plan["download_bytes"]), bytes_text(plan["engine_bytes"])
    weights = bytes_text(plan["checkpoint_bytes"])
    writing = seconds_text(max(plan["checkpoint_bytes"] / _CONVERT_BYTES_PER_S, _LEAST_S))
    build_s, run = plan.get("build_s"), settings["run"]
    answer_s = _generating_s(plan, len(str(run["prompt"]).split()), int(run["max_new_tokens"]))
    sides = 2 if settings["benchmark"]["test_hf"] else 1
    return {
        "convert": [f"about {writing} of writing after {read} are read or fetched", "memory of one tensor at a time",
                    f"{_converted(settings, plan)} of disk"],
        "quantization": [
            "time not known beforehand: it grows with the model, and with calibration",
            f"where it calibrates, at least {read} of memory",
            f"{weights} of disk",
        ],
        "build": [
            f"about {seconds_text(build_s)}" if build_s else "time not known",
            f"at least {weights} of memory",
            f"{engine} of disk",
        ],
        "run": [_working(answer_s), _memory(plan), _NO_DISK],
        "compare": [_working(answer_s, 2 * int(settings["compare"]["num_runs"])), _memory(plan, sides=2), _NO_DISK],
        "benchmark": [_working(_measuring_s(settings, plan), sides), _memory(plan, sides=sides), _NO_DISK],
        **{name: [words] for name, words in costs_unplanned(settings).items()},
    }  # fmt: skip


def _converted(settings: Settings, plan: Mapping[str, Any]) -> str:
    """Return the size of the checkpoint as converted: the plan's is of the type computed in, and quantized."""
    if settings["convert"]["dtype"] == "auto":  # the source's own type; a tied head is written a second time
        return f"at least {bytes_text(plan['download_bytes'])}"
    return f"{'at least ' if quantizes(settings) else ''}{bytes_text(plan['checkpoint_bytes'])}"


def _working(seconds: float | None, times: int = 1) -> str:
    if seconds is None:
        return "time not known"
    return f"at least {seconds_text(max(times * seconds, _LEAST_S))} of work after loading"


def _memory(plan: Mapping[str, Any], sides: int = 1) -> str:
    memory = sum(part["bytes"] for part in plan.get("memory", []))
    beside = f", and {bytes_text(plan['download_bytes'])} or more for Hugging Face's weights" if sides > 1 else ""
    return f"{bytes_text(memory)} of memory{beside}"


def _generating_s(plan: Mapping[str, Any], prompt: int, tokens: int) -> float | None:
    """Return the predicted time of one prompt and its answer; None where nothing was predicted."""
    for first in (plan.get("predictions") or [])[:1]:
        return float(first["ttft_ms"] * prompt / _PLANNED_INPUT + tokens * first["itl_ms"]) / 1e3
    return None


def _measuring_s(settings: Settings, plan: Mapping[str, Any]) -> float | None:
    """Return the predicted time of one side's repetitions: every pair of lengths at every batch size."""
    chosen = settings["benchmark"]
    bench = BenchConfig(**{name: chosen[name] for name in ("batch_size", "input_output_len", "num_runs", "duration_s")})
    times = [_generating_s(plan, prompt, tokens) for _, prompt, tokens in bench.cells]
    runs = bench.num_runs + bench.warm_up
    known = [max(runs * one, bench.duration_s) for one in times if one is not None]
    return sum(known) if known else None
