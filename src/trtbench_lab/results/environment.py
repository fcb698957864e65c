"""Where a result was made: versions and machine, found without importing anything heavy."""

from __future__ import annotations

import copy
import functools
import os
import platform
from typing import Any

from .._version import __version__

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "onnx",
    "onnxruntime",
    "tensorrt",
    "triton",
    "rouge-score",
)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def collect_environment() -> dict[str, Any]:
    """Return versions and machine as plain data; a fact that cannot be known here is left out, never guessed.

    Keys: ``python``, ``platform``, ``packages`` (name → version, of installed ones), ``machine``
    (what `engine.machine.machine_fingerprint` knows: CPU model, usable cores, memory, GPUs with driver), ``threads``
    (the variables that limit them, where set). Collected once a process; the caller gets its own copy.
    """
    return copy.deepcopy(_collected())


@functools.cache
def _collected() -> dict[str, Any]:
    from ..engine.machine import machine_fingerprint

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": machine_fingerprint(),
        "packages": _versions(),
        "threads": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
    }


def machine_of(environment: dict[str, Any]) -> str:
    """Return the machine in one phrase: ``"AMD EPYC 7B13 (2 cores), NVIDIA H200"``."""
    machine = environment.get("machine") or {}
    gpus = [str(gpu.get("name", "GPU")) for gpu in machine.get("gpus") or ()]
    cores = machine.get("cpu_cores_usable")
    cpu = str(machine.get("cpu_model") or "unnamed CPU")
    return ", ".join([f"{cpu} ({cores} cores)" if cores else cpu, *gpus])


def _versions() -> dict[str, str]:
    from importlib import metadata  # 30 ms with its parsers of mail headers: not at import

    found = {"trtbench-lab": __version__}  # from the code that runs, which need not be the one installed
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
