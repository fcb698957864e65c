"""The machine an engine was built on: what config.json records, so that a person can see why an engine was refused."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
from typing import Any

# The CPU flags that decide which kernels a CPU backend chooses; the hundred others do not change an engine.
_KERNEL_FLAGS = (
    "sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve",
)  # fmt: skip


def machine_fingerprint() -> dict[str, Any]:
    """Return what identifies this machine, as plain data; what cannot be known here is left out, never guessed.

    Keys: ``system``, ``arch``, ``cpu_model``, ``cpu_flags`` (those that choose kernels), ``cpu_flags_digest`` (of all
    flags), ``cpu_cores_usable``, ``memory_bytes``, ``gpus`` (name, compute_capability, driver, memory_bytes of each).
    """
    facts = _collected()
    return {**facts, "cpu_flags": list(facts["cpu_flags"]), "gpus": [dict(gpu) for gpu in facts["gpus"]]}


def machine_sentence(machine: dict[str, Any]) -> str:
    """Return a fingerprint as one phrase: ``"AMD EPYC (x86_64, avx2), NVIDIA H200"``."""
    flags = [flag for flag in machine.get("cpu_flags") or () if flag in ("avx2", "avx512f", "amx_tile", "asimd", "sve")]
    kind = ", ".join([str(machine.get("arch", "unknown architecture")), *flags])
    gpus = [str(gpu.get("name", "GPU")) for gpu in machine.get("gpus") or () if isinstance(gpu, dict)]
    return ", ".join([f"{machine.get('cpu_model') or 'CPU'} ({kind})", *gpus])


@functools.cache
def _collected() -> dict[str, Any]:
    from ..storage import digest_of_json

    model, flags = _cpu_model_and_flags()
    facts: dict[str, Any] = {
        "system": platform.system(),
        "arch": platform.machine(),
        "cpu_model": model,
        "cpu_flags": [flag for flag in _KERNEL_FLAGS if flag in flags],
        "cpu_flags_digest": digest_of_json(sorted(flags)) if flags else None,
        "cpu_cores_usable": _usable_cores(),
        "memory_bytes": _memory_bytes(),
        "gpus": _gpus(),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _cpu_model_and_flags() -> tuple[str | None, set[str]]:
    model: str | None = None
    flags: set[str] = set()
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as handle:
            for line in handle:
                name, _, value = line.partition(":")
                if name.strip() in ("model name", "Model") and model is None:
                    model = value.strip()
                elif name.strip() in ("flags", "Features") and not flags:
                    flags = set(value.split())
                if model and flags:
                    break
    except OSError:
        pass
    return model or platform.processor() or None, flags


def _usable_cores() -> int | None:
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return os.cpu_count()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _gpus() -> list[dict[str, Any]]:
    """Ask the driver's own tool: it needs no CUDA context, which would cost seconds and hundreds of megabytes."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,compute_cap,driver_version,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return []
    return gpus_from_csv(answer.stdout)


def gpus_from_csv(text: str) -> list[dict[str, Any]]:
    """Return the GPUs that ``nvidia-smi`` lists (name, compute capability, driver, MiB), one a line."""
    gpus = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4:
            name, capability, driver, mebibytes = parts
            gpu: dict[str, Any] = {"name": name, "compute_capability": capability, "driver": driver}
            if mebibytes.isdigit():  # some boards with shared memory answer "[N/A]"
                gpu["memory_bytes"] = int(mebibytes) << 20
            gpus.append(gpu)
    return gpus
