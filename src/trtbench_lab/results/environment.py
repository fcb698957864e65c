"""Where a result was made: versions and machine, found without importing anything heavy."""

from __future__ import annotations

import functools
import os
import platform
import shutil
from typing import Any

PACKAGES = (
    "trtbench-lab",
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


def collect_environment() -> dict[str, Any]:
    """Return versions and machine as plain data; a fact that cannot be known here is left out, never guessed.

    Keys: ``python``, ``platform``, ``cpu_model``, ``cpu_cores_logical``, ``cpu_cores_usable``, ``memory_bytes``,
    ``packages`` (name → version, of installed ones), ``gpus`` (list of name, driver, memory_bytes), ``threads``
    (the variables that limit them). Collected once a process; the caller gets its own copy.
    """
    facts = dict(_collected())
    return {**facts, "packages": dict(facts["packages"]), "gpus": [dict(g) for g in facts["gpus"]]}


@functools.cache
def _collected() -> dict[str, Any]:
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_model": _cpu_model(),
        "cpu_cores_logical": os.cpu_count(),
        "cpu_cores_usable": _usable_cores(),
        "memory_bytes": _memory_bytes(),
        "packages": _versions(),
        "gpus": _gpus(),
        "threads": {k: os.environ[k] for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if k in os.environ},
    }
    return {name: value for name, value in facts.items() if value is not None}


def _usable_cores() -> int | None:
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return None


def _cpu_model() -> str | None:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as handle:
            for line in handle:
                if line.startswith(("model name", "Model")):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _versions() -> dict[str, str]:
    from importlib import metadata  # 30 ms with its parsers of mail headers: not at import

    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _gpus() -> list[dict[str, Any]]:
    """Ask the driver's own tool: it needs no CUDA context, which would cost seconds and hundreds of megabytes."""
    import subprocess

    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = "--query-gpu=name,driver_version,memory.total,compute_cap"
    try:
        answer = subprocess.run(
            [tool, query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = []
    for line in answer.stdout.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4 and parts[2].isdigit():
            name, driver, mebibytes, capability = parts
            gpus.append(
                {"name": name, "driver": driver, "memory_bytes": int(mebibytes) << 20, "compute_capability": capability}
            )
    return gpus
