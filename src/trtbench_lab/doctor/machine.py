"""The machine itself: processor, memory, threads, disk, cache, results and hub settings."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from ..engine.machine import machine_fingerprint
from ..errors import TrtbenchError
from ..storage import home_dir, write_json
from .report import DoctorRow, error, ok, warning

_GIB = 2**30
_LITTLE_MEMORY_GIB = 4  # the demo path needs 2; a model of 1 billion parameters in float32 needs 4 for its weights
_LITTLE_DISK_GIB = 10  # a model of 1 billion parameters: source, checkpoint and engine take about 2 + 2 + 4 GiB
_VECTOR_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve")
_DOT_PRODUCT_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}


def check_processor() -> Iterator[DoctorRow]:
    """Look at the processor's cores and vector instructions."""
    facts = machine_fingerprint()
    usable, quota = facts.get("cpu_cores_usable") or 1, cpu_quota()
    found = f"{facts.get('cpu_model') or platform.machine()}, {usable} of {os.cpu_count()} cores usable"
    if quota is not None and quota < usable:
        meaning = "The container may use fewer cores than it sees, so threads wait for one another."
        yield warning("CPU", f"{found}, quota {quota:g}", meaning, f"Set OMP_NUM_THREADS={max(1, int(quota))}.")
    else:
        yield ok("CPU", found, "Logical cores that this process may run on.")
    flags = [flag for flag in _VECTOR_FLAGS if flag in facts.get("cpu_flags", ())]
    shown = ", ".join(flags) or "none known"
    if _DOT_PRODUCT_FLAGS & set(flags):
        yield ok("CPU vectors", shown, "8-bit dot products in hardware: INT8 and INT4 weights run fastest.")
    elif {"avx2", "asimd"} & set(flags):
        yield ok("CPU vectors", shown, "No 8-bit dot products in hardware: quantized weights gain less.")
    else:
        remedy = "Use a machine with AVX2 (x86-64) or Advanced SIMD (ARM), or a GPU."
        yield warning("CPU vectors", shown, "CPU engines will be slow, or will not load.", remedy)


def check_threads() -> Iterator[DoctorRow]:
    """Look at the thread counts that CPU engines and Hugging Face will use."""
    import torch

    usable = machine_fingerprint().get("cpu_cores_usable") or 1
    settings = [f"{name}={os.environ[name]}" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ]
    threads = torch.get_num_threads()
    found = ", ".join([f"torch {threads}", *settings])
    if threads > usable:
        meaning = f"More threads than the {usable} usable cores: timings suffer."
        yield warning("threads", found, meaning, f"Set OMP_NUM_THREADS={usable} before Python starts.")
    else:
        yield ok("threads", found, "Threads of one operation on the CPU.")


def check_memory() -> Iterator[DoctorRow]:
    """Look at the memory that is free for models."""
    import psutil

    memory = psutil.virtual_memory()
    total, source = memory.total, ""
    limit = memory_limit()
    if limit is not None and limit < total:
        total, source = limit, " (the container's limit)"
    free = min(memory.available, total)
    found = f"{free / _GIB:.1f} GiB available of {total / _GIB:.1f}{source}"
    if free < _LITTLE_MEMORY_GIB * _GIB:
        remedy = "Close other programs, or choose small models."
        yield warning("memory", found, "Enough for the demo models, little for others.", remedy)
    else:
        yield ok("memory", found, f"Holds the weights of about {free / 4e9:.1f} billion parameters in float32.")


def check_storage() -> Iterator[DoctorRow]:
    """Look at the cache folder and the disk under it."""
    home = home_dir()
    yield _cache_row(home)
    base = next(path for path in (home, *home.absolute().parents) if path.exists())
    free = shutil.disk_usage(base).free
    found = f"{free / _GIB:.1f} GiB free at {base}"
    if free < _LITTLE_DISK_GIB * _GIB:
        remedy = "Free some space, or set TRTBENCH_HOME to a folder on a larger disk."
        yield warning("disk", found, "Source, checkpoint and engine each take about a model's size.", remedy)
    else:
        yield ok("disk", found, "Room for checkpoints and engines.")


def _cache_row(home: Path) -> DoctorRow:
    probe = home / f".doctor-{os.getpid()}"
    try:
        write_json(probe, {})
        probe.unlink()
    except (TrtbenchError, OSError) as fault:
        reason = fault.what if isinstance(fault, TrtbenchError) else f"{fault.strerror}."
        remedy = "Set TRTBENCH_HOME to a folder that you may write to."
        return error("cache folder", str(home), f"It cannot be written: {reason}", remedy)
    return ok("cache folder", str(home), "Downloads, engines and results are kept here (TRTBENCH_HOME).")


def check_results() -> Iterator[DoctorRow]:
    """Look at the database of results, without making one."""
    from ..results import ResultsDatabase

    database = ResultsDatabase()
    where = str(database.path)
    if not database.path.exists():
        yield ok("results", where, "None yet; the first run makes the database.")
        return
    try:
        view = database.query(limit=1)
    except TrtbenchError as fault:
        yield error("results", where, fault.what, fault.remedy)
        return
    yield ok("results", where, f"{view.total:,} runs are kept.")


def check_hub() -> Iterator[DoctorRow]:
    """Look at the hub's settings; sends nothing."""
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        remedy = "Set it like https://huggingface.co, or unset it."
        yield warning("hub", endpoint, "HF_ENDPOINT is not a web address: downloads will fail.", remedy)
        return
    from huggingface_hub import constants, get_token

    found = f"{endpoint}, {'a token is stored' if get_token() else 'no token: public models only'}"
    if constants.HF_HUB_OFFLINE:
        remedy = "Unset it to download; local folders and the demo models work without."
        yield warning("hub", found, "HF_HUB_OFFLINE switches downloads off.", remedy)
        return
    yield ok("hub", found, "Where models are fetched from (not contacted now).")


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the cores that the control group grants (version 2, then 1), or None without a limit."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None  # "max" in version 2, -1 in version 1
    return int(quota) / int(period)


def memory_limit(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes that the control group grants, or None without a limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < 2**60:  # version 1 writes nearly 2^63 for no limit
            return int(text)
    return None
