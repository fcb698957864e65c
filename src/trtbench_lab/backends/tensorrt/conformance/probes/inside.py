"""What can be seen of a run: layer times, the inspector's words, intermediate tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .....errors import EngineError
from ...debug_tensors import debug_run
from ...inspection import engine_information, layer_information
from ...layer_profile import profile_layers
from .models import BuiltModel, Tried
from .sequences import logits_of


def try_looking_inside(folder: Path, *, options: dict[str, Any] | None = None, **model: Any) -> Tried:
    """Profile a decode step; every time must be a number, and some layer's name must be one of the inspector's."""
    built = BuiltModel(folder, model, dict(options or {}))
    executor = built.load()
    logits_of(executor)  # leaves a decode step bound
    facts: dict[str, Any] = built.facts()
    if options:
        tensors = debug_run(executor)
        missing = sorted(set(executor.layout.debug_tensors) - set(tensors))
        if missing or not tensors:
            raise EngineError(f"{len(missing)} debug tensors did not come, {missing[:1]} among them.")
        bad = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor.float()).all())]
        if bad:
            raise EngineError(f"The debug tensor {bad[0]!r} is not finite.")
        facts["debug_tensors"] = len(tensors)
    else:
        profile = profile_layers(executor, runs=5)
        profile.save(folder)
        engine = executor.plans()[0].engine
        information = engine_information(engine)
        names = {layer["Name"] if isinstance(layer, dict) else str(layer) for layer in information.get("Layers", [])}
        if not profile.layers:
            raise EngineError("TensorRT reported no layer.")
        facts |= {
            "layers": len(names),
            "profiled_layers": len(profile.layers),
            "names_in_both": len(names & set(profile.layers)),
            "first_layer": str(layer_information(engine, 0))[:200],
        }
    executor.close()
    return None, facts
