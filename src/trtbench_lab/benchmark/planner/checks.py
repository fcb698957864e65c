"""Predictions beside measurements: the key that both carry, and the error once both are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ...engine.machine import machine_fingerprint
from ...specs import ModelConfig
from ...storage import digest_of_json
from .gpus import gpu_from_name
from .result import PlanCheck, PlanResult

if TYPE_CHECKING:
    from ..result import BenchResult

PREDICTED = "predicted"
LINK = "link"
"""Names of a benchmark's samples: what was predicted for it (configuration → numbers), and its key."""
CHECKED = {"ttft_ms": "p50", "itl_ms": "p50"}
_SHAPE = (
    "architecture", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_size", "intermediate_size", "gated_mlp", "tie_word_embeddings",
)  # fmt: skip
_QUANTIZATION = ("quant_algo", "kv_cache_quant_algo", "group_size", "quantized_layers")


def link_of(config: ModelConfig, compute_dtype: str, machine: str, backend: str) -> str:
    """Return the key of model × mapping × quantization × machine × backend; a workload is told apart by its label."""
    values = config.to_dict()
    quantization = {name: values["quantization"][name] for name in _QUANTIZATION}
    quantization["lm_head"] = not config.quantization.excludes("lm_head")
    parts = {
        "shape": {name: values[name] for name in _SHAPE},
        "tp": config.mapping.tp_size,
        "pp": config.mapping.pp_size,
        "quantization": quantization,
        "dtype": compute_dtype,
        "machine": machine,
        "backend": backend,
    }
    return digest_of_json(parts).partition(":")[2][:16]


def machine_name(facts: Mapping[str, Any] | None = None) -> str:
    """Return the name by which plans know a machine: its first GPU's in the table, the driver's own, or the CPU's."""
    known = dict(facts) if facts is not None else machine_fingerprint()
    gpus = known.get("gpus") or ()
    if gpus:
        name = str(gpus[0].get("name", "GPU"))
        found = gpu_from_name(name)
        return found.name if found is not None else name
    return str(known.get("cpu_model") or "CPU")


def predicted_for(link: str, plans: Iterable[PlanResult], labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return what the newest plan with this key predicted for each of the configurations that some plan named."""
    wanted = set(labels)
    found: dict[str, dict[str, Any]] = {}
    for plan in plans:  # newest first
        if plan.link != link:
            continue
        for item in plan.predictions:
            if item.label in wanted and item.label not in found:
                found[item.label] = {"plan": plan.id, "ttft_ms": item.ttft_ms, "itl_ms": item.itl_ms}
    return found


def checks_of(bench: BenchResult, predictions: Mapping[str, Mapping[str, Any]] | None = None) -> list[PlanCheck]:
    """Return predicted beside measured for each configuration of a benchmark that was predicted."""
    stored = predictions if predictions is not None else bench.samples.get(PREDICTED) or {}
    found = []
    for point in bench.points:
        prediction = stored.get(point.label)
        for metric, statistic in CHECKED.items():
            summary = point.distributions.get(metric)
            if prediction is None or summary is None or not prediction.get(metric):
                continue
            measured = float(getattr(summary, statistic))
            if measured > 0:
                found.append(
                    PlanCheck(
                        bench_id=bench.id, label=point.label, metric=metric,
                        predicted=float(prediction[metric]), measured=measured,
                    )
                )  # fmt: skip
    return found
