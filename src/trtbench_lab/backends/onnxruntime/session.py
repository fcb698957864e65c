"""The ONNX Runtime session of an engine: which options it runs with, and why."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ...errors import EngineError, require

_QUIET = 3
"""Errors and worse; what the user must know is raised."""
_SPIN_US = 1000
"""How long a session's threads wait for its next run before they leave their cores, in µs.

A decode step follows the one before within 0.2 ms, so it still meets them awake. ONNX Runtime's own limit is so long
that the threads of a decode network slowed the next prompt, and those of a prompt network the next decode steps: GPT-2
124M with 4-bit weights on two cores, prompt of 64 97 → 68 ms, the eight steps after it 10.1 → 5.6 ms each, later ones
5.95 → 5.47 ms. With 200 µs later steps took 6.6 ms.
"""


def onnxruntime() -> Any:
    """Import onnxruntime, or say which extra brings it."""
    return require("onnxruntime", extra="onnxruntime", purpose="run engines of the onnxruntime backend")


def graph_level(opt_level: int) -> str:
    """Return ONNX Runtime's name of an optimization level 0 … 5: off, basic, extended, and all from 3 on."""
    return (
        ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED")[opt_level] if opt_level < 3 else "ORT_ENABLE_ALL"
    )


def open_session(path: Path, *, opt_level: int, packs_weights: bool, profile_prefix: str | None = None) -> Any:
    """Load an engine file.

    Parameters
    ----------
    path
        The engine; its data file lies beside it.
    opt_level
        0 … 5, as built.
    packs_weights
        True lets kernels rearrange weights into memory of their own (and let go of the file's pages): prompts run up to
        1.7 × and tokens 1.05 × as fast, weight-only products far more. False leaves weights in pages of the file, where
        processes share them and loading 0.5 GB takes 0.02 s instead of 0.4 s.
    profile_prefix
        Where to write a profile of every node; None writes none.

    Raises
    ------
    EngineError
        When the file is damaged or another version of ONNX Runtime is needed.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, graph_level(opt_level))
    # torch's own setting rules: one knob for both sides of a comparison, and OMP_NUM_THREADS is honoured.
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    # An arena keeps the largest prompt's activations for ever; the C allocator gives them back.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = _QUIET
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_US))
    if not packs_weights:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if profile_prefix is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile_prefix
    try:
        return ort.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen types of its own, and RuntimeError
        raise EngineError(
            "ONNX Runtime cannot load the engine.",
            where=str(path),
            remedy="Build the engine again; if it was just built, look at the details.",
            details=f"{type(error).__name__}: {error}",
        ) from error


def session_with_outputs(path: Path, choose: Callable[[list[Any]], Mapping[str, str]]) -> tuple[Any, dict[str, str]]:
    """Load an engine's network once more, with tensors that stay inside it as further outputs.

    Parameters
    ----------
    path
        The network; its data file lies beside it.
    choose
        Gets the nodes in the order of computation, and returns name → tensor of the network.

    Returns
    -------
    The session, and what `choose` returned. Each chosen tensor is an output once, after the network's own.
    """
    ort = onnxruntime()
    onnx = require("onnx", extra="onnxruntime", purpose="read tensors inside engines of the onnxruntime backend")
    model = onnx.load(os.fspath(path), load_external_data=False)
    places = dict(choose(list(model.graph.node)))
    model.graph.output.extend(onnx.ValueInfoProto(name=place) for place in dict.fromkeys(places.values()))
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.use_deterministic_compute = True
    options.log_severity_level = _QUIET
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.fspath(path.parent))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]), places
