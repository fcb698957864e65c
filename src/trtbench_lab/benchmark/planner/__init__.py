"""The planner: memory, speed, disk and time of a model on a GPU, from its config.json alone, nothing fetched or run.

::

    from trtbench_lab.benchmark.planner import plan

    plan("models/llama-3-8b", gpu="H200", tp_size=2, quantization="int8_wo", target="itl_ms=5")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .gpus import GPUS, Gpu, gpu_named
from .result import MemoryPart, PlanCheck, PlanChoice, PlanResult, Prediction

if TYPE_CHECKING:
    from .planning import plan

__all__ = ["GPUS", "Gpu", "MemoryPart", "PlanCheck", "PlanChoice", "PlanResult", "Prediction", "gpu_named", "plan"]


def __getattr__(name: str) -> Any:
    # Stored plans are read without what making one needs.
    if name != "plan":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .planning import plan

    return plan
